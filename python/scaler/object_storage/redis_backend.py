"""Scaler's Python Redis backend, where programs look for it; :mod:`scaler_object_storage.redis_backend` is the same."""

from scaler_object_storage.redis_backend import RedisObjectStorageBackend, TieredObjectStorageBackend

__all__ = ["RedisObjectStorageBackend", "TieredObjectStorageBackend"]
