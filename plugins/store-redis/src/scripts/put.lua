-- Writes or deletes a record with its index entries, if it has the expected version.
-- KEYS: the record; the shard's index.
-- ARGV: the expected version; the record's key as a part of an index entry; the new record, or '' to delete.
-- Returns nothing when that is done, otherwise the stored version.

local function number(text, from, to)
  local value = 0
  for at = from, to do value = value * 256 + string.byte(text, at) end
  return value
end

-- The index entries of a record, the one in the list of all keys first.
local function entries(record)
  local found, at, stop = { '\0\1\0\1' .. ARGV[2] }, 13, 13 + number(record, 9, 12)
  while at < stop do
    local length = number(record, at, at + 1)
    found[#found + 1] = string.sub(record, at + 2, at + 1 + length) .. ARGV[2]
    at = at + 2 + length
  end
  return found
end

local old = redis.call('GET', KEYS[1])
if old and #old < 12 then return redis.error_reply('CORRUPT a record is too short') end
local version = old and string.sub(old, 1, 8) or '\0\0\0\0\0\0\0\0'
if version ~= ARGV[1] or (ARGV[3] == '' and not old) then return version end

-- What a server without room refuses comes first: it refuses nothing after a write.
if ARGV[3] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[3])
end
if old then redis.call('ZREM', KEYS[2], unpack(entries(old))) end
if ARGV[3] ~= '' then
  local added = {}
  for _, entry in ipairs(entries(ARGV[3])) do
    added[#added + 1] = 0
    added[#added + 1] = entry
  end
  redis.call('ZADD', KEYS[2], unpack(added))
end
return false
