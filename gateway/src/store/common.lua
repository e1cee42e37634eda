-- What all scripts of the store share; it stands before each of them. Nothing here writes.
--
-- A document's keys lie in one slot: `:meta` hash, `:log` stream (id `<version>-0`, fields e = entry, h = hash after
-- it), `:clients` hash, `:snapshot:<version>:<n>` chunks. Fields of `:meta`:
--   v, hash    the head
--   root       hash(0)
--   floor      the lowest version an entry may be based on; bytes: size of the entries above it
--   snapshot   "<version> <chunks> <hash>"; no chunks = an empty document
--   time       of the last commit, Unix ms; marks: "<ms>:<version>,…": that version was the head at that time
--   numbered   rows of clients that gateways number; scan: where the removal of old rows goes on
-- A row of `:clients` is "<last seq> <its version> <Unix s> <owner>"; numbered ones have a name that begins with "~".

-- Bounds of what one call returns: a longer tail keeps the server from everybody else.
local TAIL_ENTRIES_MAX = 512
local TAIL_BYTES_MAX = 262144
local TAIL_PAGE = 16

local function int(number)
  return string.format('%.0f', number)
end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- The dead-man's switch of a primary that may have been replaced. In Cluster mode there is no such key.
local function fenced(fence_key, now)
  if not fence_key then return false end
  local limit = redis.call('HGET', fence_key, 'until')
  return limit and tonumber(limit) < now
end

local FENCED = {err = 'FENCED this server may no longer be the primary'}

local function meta_of(key)
  local values = redis.call('HMGET', key, 'v', 'hash', 'root', 'floor', 'bytes', 'snapshot', 'time', 'marks', 'numbered', 'scan')
  if not values[1] then return nil end
  local version, chunks, hash = string.match(values[6], '^(%d+) (%d+) (%x+)$')
  return {
    v = tonumber(values[1]), hash = values[2], root = values[3], floor = tonumber(values[4]), bytes = tonumber(values[5]),
    snapshot = tonumber(version), chunks = tonumber(chunks), snapshot_hash = hash,
    time = tonumber(values[7]), marks = values[8] or '', numbered = tonumber(values[9] or '0'), scan = values[10] or '0',
  }
end

-- The hash of a version, or nil where the log does not have it any more (or not yet).
local function hash_at(meta, log_key, version)
  if version == meta.v then return meta.hash end
  if version == meta.snapshot then return meta.snapshot_hash end
  local id = int(math.max(version, 1)) .. '-0'
  local found = redis.call('XRANGE', log_key, id, id)[1]
  if version == 0 then return found and meta.root end
  return found and found[2][4]
end

-- The log after a version as {entry, hash, entry, hash, …}, and whether there is more (1 or 0). Nil where the log no
-- longer begins there.
local function tail_of(log_key, after)
  local out, count, bytes, last = {}, 0, 0, after
  while true do
    local page = redis.call('XRANGE', log_key, '(' .. int(last) .. '-0', '+', 'COUNT', TAIL_PAGE)
    for _, item in ipairs(page) do
      local version = tonumber(string.match(item[1], '^%d+'))
      if version ~= last + 1 then return nil end
      local entry = item[2][2]
      if count == TAIL_ENTRIES_MAX or (count > 0 and bytes + #entry > TAIL_BYTES_MAX) then return out, 1 end
      out[2 * count + 1], out[2 * count + 2] = entry, item[2][4]
      count, bytes, last = count + 1, bytes + #entry, version
    end
    if #page < TAIL_PAGE then return out, 0 end
  end
end
