"""Every change of a collection's index: Lua scripts, so that any number of servers may make them at once.

    convlens:collections                 zset    ids, all of score 0
    convlens:collection:<id>             hash    create_time (ms), bytes; deleting, once it is to go
    convlens:collection:<id>:order       list    SHA-256 of the images, in the order in which they were added
    convlens:collection:<id>:images      hash    SHA-256 -> CollectionImage
    convlens:collection:<id>:names       hash    name -> SHA-256
    convlens:collection:<id>:taken       hash    name -> how often it was wished for when it was taken
    convlens:collection:<id>:features    hash    key of a feature set -> FeatureSet, without `images`

Those of a tenant are "<owner>.convlens:collections" and "convlens:collection:<owner>.<id>" (`files.owned`).
Every script gets the key of the collection and that of the ids as KEYS. Some 400 bytes an image; the files
themselves lie in the artifact store.
"""

from __future__ import annotations

from typing import Any, Final

IDS: Final = "convlens:collections"
COLLECTION: Final = "convlens:collection:"

_SCRIPTS: Final = {
    # id -> 1 created, 0 there is one
    "create": """
        local key, time = KEYS[1], redis.call('TIME')
        if redis.call('EXISTS', key) == 1 then return 0 end
        local created = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
        redis.call('HSET', key, 'create_time', created, 'bytes', 0)
        redis.call('ZADD', KEYS[2], 0, ARGV[1])
        return 1
    """,
    # id, digest, name, the name wished for, the image, its bytes, most images
    # -> 'added' | 'gone' | 'full' | 'known' and the image that was there
    #    | 'taken' (the name is another image's) and how often the name wished for was
    "add": """
        local key, digest, name = KEYS[1], ARGV[2], ARGV[3]
        if redis.call('EXISTS', key) == 0 or redis.call('HGET', key, 'deleting') then
          return {'gone'}
        end
        local known = redis.call('HGET', key .. ':images', digest)
        if known then return {'known', known} end
        if redis.call('LLEN', key .. ':order') >= tonumber(ARGV[7]) then return {'full'} end
        if redis.call('HSETNX', key .. ':names', name, digest) == 0 then
          return {'taken', redis.call('HINCRBY', key .. ':taken', ARGV[4], 1)}
        end
        redis.call('HSET', key .. ':images', digest, ARGV[5])
        redis.call('RPUSH', key .. ':order', digest)
        redis.call('HINCRBY', key, 'bytes', ARGV[6])
        return {'added'}
    """,
    # id, then keys and feature sets -> 1, or 0 when there is no such collection
    "describe": """
        local key = KEYS[1]
        if redis.call('EXISTS', key) == 0 or redis.call('HGET', key, 'deleting') then return 0 end
        redis.call('HSET', key .. ':features', unpack(ARGV, 2))
        return 1
    """,
    # id -> 1 from now on it takes no images, and nobody finds it; 0 there is none
    "close": """
        if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
        redis.call('HSET', KEYS[1], 'deleting', 1)
        redis.call('ZREM', KEYS[2], ARGV[1])
        return 1
    """,
    # id -> 1 removed, 0 there was none
    "delete": """
        local key = KEYS[1]
        redis.call('ZREM', KEYS[2], ARGV[1])
        for _, part in ipairs({':order', ':images', ':names', ':taken', ':features'}) do
          redis.call('DEL', key .. part)
        end
        return redis.call('DEL', key)
    """,
}


def bind(redis: Any) -> dict[str, Any]:
    """The scripts as callables on `redis`; they load themselves when needed."""
    return {name: redis.register_script(body) for name, body in _SCRIPTS.items()}
