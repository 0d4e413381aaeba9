import threading
from typing import List

from scaler.config.types.address import AddressConfig
from scaler.io.network_backends import YMQNetworkBackend
from scaler.utility.identifiers import ClientID, ObjectID

GET_SECONDS = 30


class Connection:
    """One of Scaler's own synchronous connectors to the server."""

    def __init__(self, address: str):
        self._identity = ClientID.generate_client_id()
        self._backend = YMQNetworkBackend(num_threads=1)
        self.connector = self._backend.create_sync_object_storage_connector(
            identity=self._identity, address=AddressConfig.from_string(address)
        )

    def new_id(self) -> ObjectID:
        return ObjectID.generate_object_id(self._identity)

    def get(self, object_id: ObjectID) -> bytes:
        """The object; where it does not exist the server waits for it, and this fails."""
        found: List[bytes] = []
        reader = threading.Thread(target=lambda: found.append(self.connector.get_object(object_id)), daemon=True)
        reader.start()
        reader.join(GET_SECONDS)
        assert found, f"{object_id!r} does not exist"
        return found[0]

    def close(self) -> None:
        self.connector.destroy()
        self._backend.destroy()
