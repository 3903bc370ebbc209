-- Records that are read when they are needed, and written if they have changed.

local records = {}

function store.fetch(key, field)
  local kept = records[key][field]
  if kept then return kept end
  local is_gone = state.is_new or (key == FLOWS and state.forget_flows)
  local raw = not is_gone and redis.call("HGET", key, field)
  kept = {raw = raw, blob = raw and unpack_blob(raw)}
  records[key][field] = kept
  return kept
end

function store.client_of(name)
  local record = store.fetch(MEMBERS, "k" .. name)
  if record.blob and not record.value then
    local at
    record.value, at = blobs.get_scope("client", name, record.blob, 1)
    record.value.flows, at = blobs.get_list(record.blob, at)
    local client, blob = record.value, record.blob
    client.weight, client.serial, client.version = blob[at], blob[at + 1], blob[at + 2]
    client.limits = {blob[at + 3], blob[at + 4], blob[at + 5], blob[at + 6]}
  end
  return record.value
end

function store.save_client(client)
  local out = {}
  blobs.put_scope(out, client)
  blobs.put_list(out, client.flows)
  for _, value in ipairs({client.weight, client.serial, client.version}) do insert(out, value) end
  for place = 1, 4 do insert(out, client.limits[place]) end
  return out
end

function store.share_of(index, client, make)
  local record = store.fetch(FLOWS, "s" .. index .. client)
  local share, blob = record.value, record.blob
  if blob and not share then
    share = {
      index = index, client = client, tag = blob[1], turn = blob[2], weight = blob[3],
      generation = blob[4],
    }
    share.flows = blobs.get_list(blob, 5)
    record.value = share
  end
  if share and #share.flows == 0 and share.generation < state.generations[index] then
    share = nil
  end
  if not share and make then
    share = {
      index = index, client = client, tag = 0, turn = 0, weight = 1,
      generation = state.generations[index], flows = {},
    }
    record.value = share
    state.shares[index] = state.shares[index] + 1
  end
  return share
end

function store.save_share(share)
  local out = {share.tag, share.turn, share.weight, share.generation}
  blobs.put_list(out, share.flows)
  return out
end

function store.key_of(lane, index, client) return index .. #lane .. ":" .. lane .. client end

local parsed = {}

function store.parse_key(key)
  local parts = parsed[key]
  if not parts then
    local index, length, from = key:match("^(%d)(%d+):()")
    parts = {key:sub(from, from + length - 1), tonumber(index), key:sub(from + length)}
    parsed[key] = parts
  end
  return parts[1], parts[2], parts[3]
end

function blobs.get_demand(blob, at)
  local demand = {since = blob[at], weight = blob[at + 1], rest = blob[at + 2], rest_tokens = blob[at + 3]}
  demand.sizes, at = blobs.get_list(blob, at + 4)
  return demand, at
end

function blobs.put_demand(out, demand)
  local n = #out
  out[n + 1], out[n + 2], out[n + 3], out[n + 4] =
    demand.since, demand.weight, demand.rest, demand.rest_tokens
  blobs.put_list(out, demand.sizes)
end

-- Demand of members (core/group_demand.py).

local demands = {}

function demands.count(demand) return #demand.sizes + demand.rest end

function demands.tokens(demand)
  local tokens = demand.rest_tokens
  for _, size in ipairs(demand.sizes) do tokens = tokens + size end
  return tokens
end

function demands.first(demand)
  return demand.sizes[1] or divide(demand.rest_tokens, demand.rest)
end

function demands.take(demand, at)
  local tokens = demands.first(demand)
  if demand.sizes[1] then
    table.remove(demand.sizes, 1)
  else
    demand.rest = demand.rest - 1
    demand.rest_tokens = demand.rest_tokens - tokens
  end
  demand.since = max(demand.since, at)
  return tokens
end

function demands.find_first(flow)
  -- The member whose first waiter has waited longest, and that waiter's tokens.
  local name, demand
  for each, its in pairs(flow.demands) do
    if not demand or its.since < demand.since
        or (its.since == demand.since and before(each, name)) then
      name, demand = each, its
    end
  end
  flow.next, flow.size = name, demand and demands.first(demand) or 0
end

local function pop(flow, at)
  local name = flow.next
  local demand = flow.demands[name]
  local tokens = demands.take(demand, at)
  local is_last = demands.count(demand) == 0
  if is_last then flow.demands[name] = nil end
  flow.count, flow.tokens = flow.count - 1, flow.tokens - tokens
  demands.find_first(flow)
  return name, tokens, is_last
end

function demands.recount(flow)
  local items, tokens = 0, 0
  for _, demand in pairs(flow.demands) do
    items, tokens = items + demands.count(demand), tokens + demands.tokens(demand)
  end
  local more, more_tokens = items - flow.count, tokens - flow.tokens
  flow.count, flow.tokens = items, tokens
  demands.find_first(flow)
  return more, more_tokens
end

function store.load_flow(id, blob)
  local serial, key = id:match("^(%d+)#(.*)")
  local lane, index, client = store.parse_key(key)
  local flow = {
    id = id, key = key, lane = state.lane_by_name[lane], index = index, name = client,
    tag = blob[1], turn = blob[2], served = blob[3], count = blob[4], tokens = blob[5],
    held_by = blob[6], due = blob[7], withheld = blob[8], generation = blob[9],
    indexed = blob[10], gate_tag = blob[11], gate_turn = blob[12],
    demands = {},
  }
  if blob[18] then flow.at_client = {tag = blob[13], turn = blob[14]} end
  if blob[15] > 0 then flow.counted = {blob[15], blob[16], blob[17], blob[19]} end
  local at = 20
  while blob[at] do
    flow.demands[blob[at]], at = blobs.get_demand(blob, at + 1)
  end
  local scope = serial ~= "0" and store.client_of(client)
  if scope and scope.serial == tonumber(serial) then flow.client = scope end
  if flow.count > 0 then flow.share = store.share_of(index, client) end
  demands.find_first(flow)
  return flow
end

function store.save_flow(flow)
  local place, counted = flow.at_client, flow.counted
  local out = {
    flow.tag, flow.turn, flow.served, flow.count, flow.tokens, flow.held_by, flow.due,
    flow.withheld, flow.generation, flow.indexed, flow.gate_tag, flow.gate_turn,
    place and place.tag or 0, place and place.turn or 0,
    counted and counted[1] or 0, counted and counted[2] or 0, counted and counted[3] or 0,
    place and true or false, counted and counted[4] or 0,
  }
  for member, demand in pairs(flow.demands) do
    out[#out + 1] = member
    blobs.put_demand(out, demand)
  end
  return out
end

function store.flow_by_id(id)
  local record = store.fetch(FLOWS, "f" .. id)
  if record.blob and not record.value then record.value = store.load_flow(id, record.blob) end
  return record.value
end

function store.known_flow(id)
  -- The flow, unless it was forgotten.
  local flow = store.flow_by_id(id)
  if flow and not flow.lane then return nil end
  if flow and flow.count == 0 and flow.generation ~= flow.lane.generation then return nil end
  return flow
end

function store.waiting_flow(id)
  local flow = store.flow_by_id(id)
  if not flow then error("a flow is missing", 0) end
  return flow
end

function store.all_flow_ids()
  -- As keys: of the flows in Redis, and of those that this call has made.
  local ids = {}
  local function add(field)
    if field:sub(1, 1) == "f" then ids[field:sub(2)] = true end
  end
  if not state.forget_flows then
    for _, field in ipairs(redis.call("HKEYS", FLOWS)) do add(field) end
  end
  for field in pairs(records[FLOWS]) do add(field) end
  return ids
end

function store.drop(key, field)
  local record = records[key][field]
  if record then
    record.value, record.blob = nil, nil
  else
    records[key][field] = {raw = true}
  end
end

-- A sorted list of flows by (tag, turn), in chunks.

local ordered = {}

function ordered.chunk_entries(chunk)
  local record = store.fetch(FLOWS, "i" .. chunk.id)
  if not record.value then
    if not record.blob then error("a part of the order is missing", 0) end
    record.value = record.blob
  end
  return record.value
end

function ordered.new_chunk(tag, turn, entries)
  local chunk = {id = store.next_serial(), tag = tag, turn = turn}
  records[FLOWS]["i" .. chunk.id] = {value = entries}
  return chunk
end

function ordered.chunk_for(list, tag, turn)
  -- The last chunk that does not begin behind the place.
  local low, high = 1, #list
  while low < high do
    local middle = floor((low + high + 1) / 2)
    local chunk = list[middle]
    if chunk.tag < tag or (chunk.tag == tag and chunk.turn <= turn) then
      low = middle
    else
      high = middle - 1
    end
  end
  return low
end

function ordered.find_entry(entries, tag, turn)
  -- The position of the first entry that is not before the place.
  local low, high = 0, #entries / 3
  while low < high do
    local middle = floor((low + high) / 2)
    local its_tag = entries[3 * middle + 1]
    if its_tag < tag or (its_tag == tag and entries[3 * middle + 2] < turn) then
      low = middle + 1
    else
      high = middle
    end
  end
  return 3 * low + 1
end

function ordered.list_insert(list, tag, turn, id)
  if #list == 0 then
    list[1] = ordered.new_chunk(tag, turn, {tag, turn, id})
    return
  end
  local number_of_chunk = ordered.chunk_for(list, tag, turn)
  local chunk = list[number_of_chunk]
  local entries = ordered.chunk_entries(chunk)
  local at = ordered.find_entry(entries, tag, turn)
  for place = #entries, at, -1 do entries[place + 3] = entries[place] end
  entries[at], entries[at + 1], entries[at + 2] = tag, turn, id
  if at == 1 then chunk.tag, chunk.turn = tag, turn end
  if #entries > 3 * CHUNK then
    local moved, from = {}, 3 * CHUNK / 2
    for place = from + 1, #entries do
      moved[place - from] = entries[place]
      entries[place] = nil
    end
    insert(list, number_of_chunk + 1, ordered.new_chunk(moved[1], moved[2], moved))
  end
end

function ordered.list_remove(list, tag, turn)
  local number_of_chunk = ordered.chunk_for(list, tag, turn)
  local chunk = list[number_of_chunk]
  local entries = ordered.chunk_entries(chunk)
  local at, last = ordered.find_entry(entries, tag, turn), #entries
  if entries[at] ~= tag or entries[at + 1] ~= turn then error("the order is damaged", 0) end
  for place = at + 3, last do entries[place - 3] = entries[place] end
  entries[last], entries[last - 1], entries[last - 2] = nil, nil, nil
  if last == 3 then
    store.drop(FLOWS, "i" .. chunk.id)
    table.remove(list, number_of_chunk)
  elseif at == 1 then
    chunk.tag, chunk.turn = entries[1], entries[2]
  end
end

