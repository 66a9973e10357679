-- What `Meter::count` does. Times are whole microseconds, debts whole nanoseconds: both are exact in a double. What is kept is the debt
-- and when that was: the difference of two times is exact where a time in nanoseconds would not be.
local now = tonumber(ARGV[1])
local own = not now
if own then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
end
local spacing, burst, ceiling, difference = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local kept = redis.call('HMGET', KEYS[1], 'debt', 'at')
local debt = 0
if kept[1] then
  debt = math.min(math.max(tonumber(kept[1]) - (now - tonumber(kept[2])) * 1000, 0), ceiling)
end
debt = math.min(math.max(debt + difference * spacing, 0), ceiling)
local moved = difference ~= 0
local served = {}
for i = 6, #ARGV do
  local weight = tonumber(ARGV[i])
  local taken = debt + math.min(weight, burst) * spacing <= burst * spacing
  if taken then
    debt = math.min(debt + weight * spacing, ceiling)
    moved = true
  end
  served[#served + 1] = taken and 1 or 0
  served[#served + 1] = debt
end
if moved then
  redis.call('HSET', KEYS[1], 'debt', string.format('%.0f', debt), 'at', string.format('%.0f', now))
  -- By then it says nothing that would not be so without it. At a test's times nobody knows when that is.
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', own and math.ceil(debt / 1000000) + 1000 or 3600000))
end
if #served == 0 then
  return { 0, debt }
end
return served
