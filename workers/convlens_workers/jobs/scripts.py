"""Every change of a job's state: Lua scripts, so that each is atomic, and fenced where a worker asks for it.

Keys, beside RQ's own of the queue (`rq:queue:<queue>`, its `:intermediate` list, `rq:job:<id>`):

    convlens:operation:<id>   hash    the record: fields of JobMetadata, request, result, error, token, ...
    convlens:events:<id>      stream  snapshots of the record, one an event, capped
    convlens:operations       zset    index of all jobs, members "<create time in ms>-<id>", all of score 0
    convlens:index:<tenant>   zset    the same of a tenant's jobs
    convlens:indexed          hash    how far each index was looked through lately, see `look_through`
    convlens:leases:<queue>   zset    id -> when its lease ends (ms); jobs that a worker has taken
    convlens:swept:<queue>    string  when the last sweep ran (ms)
    convlens:swept:by:<queue> zset    worker that sweeps -> until when it counts as alive (ms)
    convlens:changed          channel id of each job that changed, to wake watchers
    convlens:untidy           zset    id -> when to look for objects that no job names (ms), see `tidying.py`
    convlens:tenant:<tenant>  set     ids of the tenant's jobs that have not finished
    convlens:counters:<queue> hash    how often what happened: submitted, succeeded, failed, retried, ...
    convlens:counters:of:<tenant>:<queue> hash  the same to a tenant's jobs
    convlens:throughput:jobs:<queue> hash  "<device> <technique>" -> multiply-adds a second of its last jobs

The clock is Redis's. An attempt holds a token; when the record has another one, or none, the attempt is stale
and nothing that it says is taken down. State numbers are those of JobState.
"""

from __future__ import annotations

from typing import Any, Final

from convlens.errors import Cancelled, Internal, to_status
from convlens_workers.jobs.settings import JobSettings

OPERATION: Final = "convlens:operation:"
EVENTS: Final = "convlens:events:"
INDEX: Final = "convlens:operations"
TENANT_INDEX: Final = "convlens:index:"
INDEXED: Final = "convlens:indexed"
WHOLE: Final = "whole"
"""Field of INDEXED: jobs that older servers had put into the index of all alone are in those of tenants."""
CHANGED: Final = "convlens:changed"
SPEEDS: Final = "convlens:throughput:jobs:"
WORKERS: Final = "convlens:swept:by:"
UNTIDY: Final = "convlens:untidy"
NOTHING: Final = "convlens:nothing"
"""A key that is never there: to delete it changes nothing, but is refused where writes are. With too few
replicas Redis 6.2 takes scripts all the same."""

# ARGV[1..5] of every script; see `context`.
_PRELUDE: Final = """
local event_limit, ttl, gave_up, cancelled = ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local id = ARGV[6]
local queue = redis.call('HGET', 'convlens:operation:' .. id, 'queue') or ARGV[1]
local QUEUE = 'rq:queue:' .. queue
local TAKEN = QUEUE .. ':intermediate'
local LEASES = 'convlens:leases:' .. queue
local WORKERS = 'convlens:swept:by:' .. queue
local UNTIDY = 'convlens:untidy'
local SOON, LATER = 60000, 3600000  -- Longer than a worker takes to stop, and a call to submit a job (ms).
local QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = '1', '2', '3', '4', '5'
local COUNTER = {[SUCCEEDED] = 'succeeded', [FAILED] = 'failed', [CANCELLED] = 'cancelled'}
local HIDDEN = {token=1, checkpoints=1, dropping=1, crashes=1, payload=1, request=1, result=1, preview=1,
                queue=1, tenant=1, cost=1, claimed=1, ran=1, trace=1, ended_by=1, models=1}

local function record(id) return 'convlens:operation:' .. id end
local function field(id, name) return redis.call('HGET', record(id), name) end
local function now()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local function count(what, id)
  redis.call('HINCRBY', 'convlens:counters:' .. queue, what, 1)
  local owner = field(id, 'tenant') or ''
  if owner ~= '' then redis.call('HINCRBY', 'convlens:counters:of:' .. owner .. ':' .. queue, what, 1) end
end
local function tenant(id) return 'convlens:tenant:' .. (field(id, 'tenant') or '') end
local function learn(id, ended)
  local cost, claimed = tonumber(field(id, 'cost') or 0), tonumber(field(id, 'claimed') or ended)
  if cost <= 0 or ended <= claimed or field(id, 'attempt') ~= '1' then return end
  local key = 'convlens:throughput:jobs:' .. queue
  local kind = field(id, 'device') .. ' ' .. (field(id, 'technique') or '')
  local known = {string.format('%.6g', cost * 1000 / (ended - claimed))}
  local before = redis.call('HGET', key, kind) or ''
  for rate in string.gmatch(before, '%S+') do table.insert(known, #known, rate) end
  redis.call('HSET', key, kind, table.concat(known, ' ', math.max(1, #known - 8)))
end

local function emit(id, preview)
  local event, all = {}, redis.call('HGETALL', record(id))
  for i = 1, #all, 2 do
    if not HIDDEN[all[i]] then event[#event + 1] = all[i]; event[#event + 1] = all[i + 1] end
  end
  if preview then event[#event + 1] = 'preview'; event[#event + 1] = preview end
  redis.call('XADD', 'convlens:events:' .. id, 'MAXLEN', '~', event_limit, '*', unpack(event))
  redis.call('PUBLISH', 'convlens:changed', id)
end

local function index(tenant) return tenant == '' and 'convlens:operations' or 'convlens:index:' .. tenant end

-- The next `many` entries of an index: of jobs that are gone they leave it, and a tenant's are in its own.
local function look_through(key, many)
  local last = redis.call('HGET', 'convlens:indexed', key)
  local entries = redis.call('ZRANGEBYLEX', key, last and '(' .. last or '-', '+', 'LIMIT', 0, many)
  for _, entry in ipairs(entries) do
    local job = string.sub(entry, 15)
    if redis.call('EXISTS', record(job)) == 0 then redis.call('ZREM', key, entry)
    else redis.call('ZADD', index(field(job, 'tenant') or ''), 0, entry) end
  end
  if #entries == many then redis.call('HSET', 'convlens:indexed', key, entries[many]); return false end
  redis.call('HDEL', 'convlens:indexed', key)
  if key == 'convlens:operations' then redis.call('HSET', 'convlens:indexed', 'whole', 1) end
  return true
end

-- In so many ms the artifact store may hold what the record does not name.
local function untidy(id, within) redis.call('ZADD', UNTIDY, now() + within, id) end

-- Whether it is this attempt that has ended the job: it did not get the reply, and asks again.
local function ended_by(id, token) return field(id, 'ended_by') == token and 1 end

-- Why one more job may not be queued, if it may not.
local function refused(limit, tenant, most)
  if redis.call('LLEN', QUEUE) >= tonumber(limit) then return 'full' end
  local theirs = tonumber(most) > 0 and redis.call('SCARD', 'convlens:tenant:' .. tenant) or -1
  return theirs >= tonumber(most) and 'tenant'
end

-- Of its checkpoints a job that has ended keeps the newest, if another one may go on from it.
local function finish(id, state, name, value)
  local ended = now()
  untidy(id, SOON)
  local newest = field(id, 'resumable') == '1' and string.match(field(id, 'checkpoints') or '', '%S+')
  redis.call('HDEL', record(id), 'checkpoints', 'dropping')
  if newest then redis.call('HSET', record(id), 'checkpoints', newest) end
  local token = field(id, 'token')
  if token then redis.call('HSET', record(id), 'ended_by', token) end
  count(COUNTER[state], id)
  if state == SUCCEEDED then learn(id, ended) end
  redis.call('SREM', tenant(id), id)
  redis.call('HSET', record(id), 'state', state, 'end_time', ended, 'expire_time', ended + ttl, name, value)
  redis.call('HDEL', record(id), 'token', 'queue_position', 'remaining_seconds')
  redis.call('ZREM', LEASES, id)
  redis.call('LREM', QUEUE, 0, id)
  redis.call('LREM', TAKEN, 0, id)
  redis.call('DEL', 'rq:job:' .. id)
  emit(id)
  redis.call('PEXPIREAT', record(id), ended + ttl)
  redis.call('PEXPIREAT', 'convlens:events:' .. id, ended + ttl)
  return 1
end

local function requeue(id, crashed, max_crashes)
  if field(id, 'cancel_requested') == '1' then return finish(id, CANCELLED, 'error', cancelled) end
  local time = now()
  redis.call('HINCRBY', record(id), 'ran', time - tonumber(field(id, 'claimed') or time))
  redis.call('HDEL', record(id), 'claimed')
  count(crashed and 'retried' or 'drained', id)
  if crashed and redis.call('HINCRBY', record(id), 'crashes', 1) >= tonumber(max_crashes) then
    count('given_up', id)
    return finish(id, FAILED, 'error', gave_up)
  end
  redis.call('ZREM', LEASES, id)
  redis.call('LREM', TAKEN, 0, id)
  redis.call('LREM', QUEUE, 0, id)
  local behind = redis.call('LLEN', QUEUE)
  redis.call(crashed and 'RPUSH' or 'LPUSH', QUEUE, id)
  redis.call('HSET', record(id), 'state', QUEUED, 'queue_position', crashed and behind or 0)
  redis.call('HDEL', record(id), 'token', 'remaining_seconds')
  emit(id)
  return 1
end
"""

_SCRIPTS: Final = {
    # id, limit, tenant, tenant's limit (0 none) -> 'yes', or why nothing may be stored for such a job now:
    # 'full' | 'tenant' | 'late'
    "intend": """
        local why = refused(ARGV[7], ARGV[8], ARGV[9])
        if why then return why end
        local due = redis.call('ZSCORE', UNTIDY, id)
        if due and tonumber(due) <= now() and not field(id, 'state') then return 'late' end
        untidy(id, LATER)
        return 'yes'
    """,
    # id, payload digest, limit, tenant, tenant's limit (0 none), number of RQ's fields, RQ's fields ...,
    # record's fields ... -> 'created' | 'same' | 'other' | 'full' | 'tenant' | 'late'
    "submit": """
        local payload, n = ARGV[7], tonumber(ARGV[11])
        local known = field(id, 'payload')
        if known then return known == payload and 'same' or 'other' end
        local why = refused(ARGV[8], ARGV[9], ARGV[10])
        if why then return why end
        local created, due = now(), redis.call('ZSCORE', UNTIDY, id)
        if not due or tonumber(due) <= created then return 'late' end
        local theirs, ahead = 'convlens:tenant:' .. ARGV[9], redis.call('LLEN', QUEUE)
        redis.call('HSET', 'rq:job:' .. id, unpack(ARGV, 12, 11 + n))  -- First: a full Redis refuses it.
        redis.call('ZREM', UNTIDY, id)
        redis.call('DEL', 'convlens:events:' .. id)
        redis.call('HSET', record(id), 'state', QUEUED, 'payload', payload, 'create_time', created,
                   'queue', queue, 'tenant', ARGV[9], 'queue_position', ahead, unpack(ARGV, 12 + n))
        redis.call('SADD', theirs, id)
        count('submitted', id)
        for _, key in ipairs(ARGV[9] == '' and {index('')} or {index(''), index(ARGV[9])}) do
          redis.call('ZADD', key, 0, string.format('%013d-%s', created, id))
          look_through(key, 10)  -- So no index grows beyond the jobs that there are by more than a tenth.
        end
        redis.call('SADD', 'rq:queues', QUEUE)
        redis.call('RPUSH', QUEUE, id)
        emit(id)
        return 'created'
    """,
    # id, token, lease in ms, device -> the record's fields, or nothing when the job is not to be run
    "claim": """
        redis.call('LREM', TAKEN, 0, id)
        redis.call('LREM', QUEUE, 0, id)  -- Where the sweep had put it back because this worker was slow.
        local state, started = field(id, 'state'), now()
        if state ~= RUNNING then redis.call('ZREM', LEASES, id) end
        if state ~= QUEUED and field(id, 'token') ~= ARGV[7] then return false end
        redis.call('ZADD', LEASES, started + ARGV[8], id)
        if state == RUNNING then return redis.call('HGETALL', record(id)) end
        redis.call('HSET', record(id), 'state', RUNNING, 'token', ARGV[7], 'device', ARGV[9],
                   'claimed', started)
        redis.call('HSETNX', record(id), 'start_time', started)
        redis.call('HINCRBY', record(id), 'attempt', 1)
        redis.call('HDEL', record(id), 'queue_position')
        emit(id)
        return redis.call('HGETALL', record(id))
    """,
    # id, token, lease in ms, preview, fields ... -> -1 stale, 1 cancel requested, 0 otherwise
    "update": """
        if field(id, 'token') ~= ARGV[7] then return -1 end
        redis.call('ZADD', LEASES, now() + ARGV[8], id)
        if #ARGV > 9 then
          redis.call('HSET', record(id), unpack(ARGV, 10))
          if ARGV[9] ~= '' then redis.call('HSET', record(id), 'preview', ARGV[9]) end
          emit(id, ARGV[9] ~= '' and ARGV[9])
        end
        return field(id, 'cancel_requested') == '1' and 1 or 0
    """,
    # id, token, digest of the new checkpoint -> digest of the one to drop ('' none), or nothing when stale
    "checkpoint": """
        if field(id, 'token') ~= ARGV[7] then return false end
        local newest, older = string.match(field(id, 'checkpoints') or '', '(%S*)%s*(%S*)')
        if newest == ARGV[8] then return field(id, 'dropping') or '' end
        local dropping = older == ARGV[8] and '' or older
        redis.call('HSET', record(id), 'checkpoints', ARGV[8] .. ' ' .. newest, 'crashes', 0,
                   'dropping', dropping)  -- For who does not get the reply.
        return dropping
    """,
    # id, token, digest of a last checkpoint or '', artifacts or '' -> 1, or nothing when the job has not
    # ended under this attempt, is gone, or is not resumable; its state stays
    "leave": """
        if not ended_by(id, ARGV[7]) or field(id, 'resumable') ~= '1' then return false end
        untidy(id, SOON)
        if ARGV[9] ~= '' then redis.call('HSET', record(id), 'artifacts', ARGV[9]) end
        if ARGV[8] ~= '' then redis.call('HSET', record(id), 'checkpoints', ARGV[8]) end
        return 1
    """,
    # id: an attempt that is stale may have stored what no record names
    "abandon": """
        if field(id, 'state') then untidy(id, SOON) end
    """,
    # id, token, state, 'result' or 'error', its bytes -> 1, or nothing when stale
    "finish": """
        if field(id, 'token') ~= ARGV[7] then return ended_by(id, ARGV[7]) end
        if field(id, 'cancel_requested') == '1' then return finish(id, CANCELLED, 'error', cancelled) end
        return finish(id, ARGV[8], ARGV[9], ARGV[10])
    """,
    # id, token, '1' after a crash, most crashes -> 1, or nothing when stale
    "requeue": """
        if field(id, 'token') ~= ARGV[7] then return ended_by(id, ARGV[7]) end
        return requeue(id, ARGV[8] == '1', ARGV[9])
    """,
    # '', lease in ms, interval in ms, most crashes -> ids that were taken away from their workers
    "sweep": """
        local time, lease, interval = now(), tonumber(ARGV[7]), tonumber(ARGV[8])
        redis.call('ZADD', WORKERS, time + lease, ARGV[10])
        for _, gone in ipairs(redis.call('ZRANGEBYSCORE', WORKERS, '-inf', time)) do
          redis.call('ZREM', WORKERS, gone)
        end
        local pause = time - tonumber(redis.call('GET', 'convlens:swept:' .. queue) or 0)
        if pause >= 0 and pause < interval then return {} end
        redis.call('SET', 'convlens:swept:' .. queue, time)
        for _, taken in ipairs(redis.call('LRANGE', TAKEN, 0, -1)) do
          redis.call('ZADD', LEASES, 'NX', time + lease, taken)
        end
        if pause < 0 then
          -- The clock has stepped back: no lease lasts longer than a term from now.
          for _, key in ipairs({LEASES, WORKERS}) do
            for _, each in ipairs(redis.call('ZRANGEBYSCORE', key, time + lease, '+inf')) do
              redis.call('ZADD', key, time + lease, each)
            end
          end
        end
        local overdue = redis.call('ZRANGEBYSCORE', LEASES, '-inf', time)
        if pause > lease / 2 then
          -- Redis or all the workers were away: whoever still lives gets one more term to come back.
          for _, late in ipairs(overdue) do redis.call('ZADD', LEASES, time + lease, late) end
          return {}
        end
        for _, late in ipairs(overdue) do
          local state = field(late, 'state')
          -- One that waits was taken, but never began: no crash of the job's.
          if state == QUEUED or state == RUNNING then requeue(late, state == RUNNING, ARGV[9]) end
          redis.call('ZREM', LEASES, late)
          redis.call('LREM', TAKEN, 0, late)
        end
        return overdue
    """,
    # id -> nothing when there is no such job, 2 where this has ended it, otherwise 1
    "cancel": """
        local state = field(id, 'state')
        if not state then return false end
        if state == QUEUED then return 1 + finish(id, CANCELLED, 'error', cancelled) end
        if state == RUNNING and redis.call('HSET', record(id), 'cancel_requested', '1') == 1 then emit(id) end
        return 1
    """,
    # '', tenant or '' -> jobs that wait, jobs that run, age of the next one in ms, counters (the tenant's, or
    # all), speeds, live workers; changes nothing
    "stats": """
        local first = redis.call('LINDEX', QUEUE, 0)
        local created = first and field(first, 'create_time')
        local alive = redis.call('ZRANGEBYSCORE', WORKERS, now(), '+inf')
        local of = ARGV[7] == '' and '' or 'of:' .. ARGV[7] .. ':'
        return {redis.call('LLEN', QUEUE), redis.call('ZCARD', LEASES), created and now() - created or 0,
                redis.call('HGETALL', 'convlens:counters:' .. of .. queue),
                redis.call('HGETALL', 'convlens:throughput:jobs:' .. queue), #alive}
    """,
    # '', how many entries -> '1' once the index of all was looked through to its end
    "index": """
        return look_through('convlens:operations', tonumber(ARGV[7])) and '1' or '0'
    """,
    # '', how many -> ids that are due to be tidied, and that nobody is just tidying
    "due": """
        return redis.call('ZRANGEBYSCORE', UNTIDY, '-inf', now() - 5000, 'LIMIT', 0, ARGV[7])
    """,
    # id -> since when or until when it is untidy, and the record's fields; or nothing when it is not
    "untidy": """
        local due = redis.call('ZSCORE', UNTIDY, id)
        return due and {due, redis.call('HGETALL', record(id))}
    """,
    # id, what `untidy` gave: it was tidied, which counts unless it has become untidy anew
    "tidied": """
        if redis.call('ZSCORE', UNTIDY, id) == ARGV[7] then redis.call('ZREM', UNTIDY, id) end
    """,
    # id: it could not be tidied
    "postpone": """
        redis.call('ZADD', UNTIDY, 'XX', now() + SOON, id)
    """,
    # id -> -1 no such job, 0 it has not finished, 1 removed
    "delete": """
        local state = field(id, 'state')
        if not state then return redis.call('ZSCORE', UNTIDY, id) and 1 or -1 end
        if state == QUEUED or state == RUNNING then return 0 end
        local created = field(id, 'create_time')
        for _, key in ipairs({index(''), index(field(id, 'tenant') or '')}) do
          redis.call('ZREM', key, string.format('%013d-%s', created, id))
        end
        redis.call('DEL', record(id), 'convlens:events:' .. id)
        untidy(id, 0)  -- Last: a full Redis takes it once the script has removed something.
        return 1
    """,
}

NAMES: Final = tuple(_SCRIPTS)

_CANCELLED: Final = to_status(Cancelled("the job was cancelled")).SerializeToString(deterministic=True)
_GAVE_UP: Final = to_status(
    Internal("the job's worker died each time that the job ran; given up", reason="WORKER_CRASHED")
).SerializeToString(deterministic=True)


def bind(redis: Any) -> dict[str, Any]:
    """The scripts as callables on `redis`, a sync or an asyncio client; they load themselves when needed."""
    return {name: redis.register_script(_PRELUDE + body) for name, body in _SCRIPTS.items()}


def context(settings: JobSettings, queue: str = "") -> list[Any]:
    """The arguments that come first in every call; `queue` counts where no record tells the job's."""
    limits = (settings.event_limit, settings.job_ttl * 1000)
    return [queue or settings.queue, *limits, _GAVE_UP, _CANCELLED]
