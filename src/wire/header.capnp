@0xd1b3c47f5f0a8e26;
# Message headers of Scaler's object storage, as its clients write them.
#
# The server reads and writes the layout that those clients use by hand (header.rs); `cargo test` checks that against this
# schema. After a change, generate header_capnp.rs anew with capnpc-rust.

struct ObjectId {
    field0 @0 :UInt64;
    field1 @1 :UInt64;
    field2 @2 :UInt64;
    field3 @3 :UInt64;
}

struct RequestHeader {
    objectId @0 :ObjectId;
    payloadLength @1 :UInt64;
    requestId @2 :UInt64;
    requestType @3 :UInt16;
}

struct ResponseHeader {
    objectId @0 :ObjectId;
    payloadLength @1 :UInt64;
    responseId @2 :UInt64;
    responseType @3 :UInt16;
}
