-- What `Slots::claim` does: one field a worker, "sequence count until". With no worker, nothing is claimed and what is under way is summed up.
local now = tonumber(ARGV[1])
local own_clock = not now
if own_clock then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
end
local life, most, worker = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local sequence, held, wanted = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local function text(sequence, count, till)
  return string.format('%.0f %.0f %.0f', sequence, count, till)
end
local others, heard = 0, nil
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local s, count, till = string.match(all[i + 1], '^(%S+) (%S+) (%S+)$')
  s, count, till = tonumber(s), tonumber(count), tonumber(till)
  if till <= now then
    if worker ~= '' then redis.call('HDEL', KEYS[1], all[i]) end
  else
    if worker ~= '' and till > now + life then
      redis.call('HSET', KEYS[1], all[i], text(s, count, now + life))
    end
    if all[i] == worker then
      heard = s
    else
      others = others + count
    end
  end
end
if worker == '' then
  return { others, others }
end
local own = held + math.min(wanted, math.max(most - others - held, 0))
if not heard or heard < sequence then
  redis.call('HSET', KEYS[1], worker, text(sequence, own, now + life))
end
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', own_clock and math.ceil(life / 1000) + 1000 or 3600000))
return { own, others }
