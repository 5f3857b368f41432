"""What the gateway keeps: the clients with their hashed keys, and how much of their quota they have used."""

from chassis.store import Index, Schema

CLIENTS, QUOTAS = "clients", "quotas"

SCHEMA: Schema = {
    # {"_id": client, "kind": "channel"|"partner", "roles": […], "disabled": bool, "quota": {…}?,
    #  "keys": [{"prefix", "hash", "created", "expires"?}]}
    CLIENTS: (Index("keys.prefix", unique=True, field="prefix", where={"keys.prefix": {"$exists": True}}),),
    # {"_id": "<client>:<window>", "used": int, "ends": datetime}
    QUOTAS: (Index("ends", expire_seconds=60),),
}
