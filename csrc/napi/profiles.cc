// What a profile learns of the streams: which commands ran when (core/command_log.h).
#include <cstring>
#include <string_view>

#include "../comm/group.h"
#include "../core/command_log.h"
#include "../core/platform.h"
#include "args.h"

namespace sg {

namespace {

struct Place {
  double slot, stream;
};

// Streams of other environments are none of this one's.
std::unordered_map<const Stream*, Place> streams_of(const Environment& e) {
  std::unordered_map<const Stream*, Place> places;
  for (size_t slot = 0; slot < e.devices.size(); slot++) {
    for (int i = 0; i < kStreamsPerDevice; i++) places[&e.devices[slot]->stream(i)] = {double(slot), double(i)};
  }
  return places;
}

napi_value array_of_rows(Environment& e, const std::vector<double>& rows) {
  void* data = nullptr;
  napi_value buffer = nullptr, array = nullptr;
  napi_create_arraybuffer(e.env, rows.size() * sizeof(double), &data, &buffer);
  if (!rows.empty()) std::memcpy(data, rows.data(), rows.size() * sizeof(double));
  napi_create_typedarray(e.env, napi_float64_array, rows.size(), buffer, 0, &array);
  return array;
}

napi_value array_of_texts(Environment& e, const std::vector<const char*>& texts) {
  napi_value array = nullptr;
  napi_create_array_with_length(e.env, texts.size(), &array);
  for (size_t i = 0; i < texts.size(); i++) {
    napi_value text = nullptr;
    napi_create_string_utf8(e.env, texts[i], NAPI_AUTO_LENGTH, &text);
    napi_set_element(e.env, array, uint32_t(i), text);
  }
  return array;
}

}  // namespace

namespace js {

// now(): the clock of command times, in microseconds
napi_value now(Environment& e, const Arguments&) { return make_number(e, double(now_ns()) * 1e-3); }

napi_value startCommandLog(Environment& e, const Arguments&) {
  CommandLog::instance().start(&e);
  return nullptr;
}

// stopCommandLog(): { names, rows, lost }; a row is [device slot, stream, the command's number, index of its name,
// begin, end in microseconds, whether the device itself was timed]
napi_value stopCommandLog(Environment& e, const Arguments&) {
  const CommandLog::Recording recording = CommandLog::instance().stop(&e);
  const auto places = streams_of(e);
  std::unordered_map<std::string_view, double> known;
  std::vector<const char*> names;
  std::vector<double> rows;
  for (const CommandLog::Entry& entry : recording.entries) {
    const auto place = places.find(entry.stream);
    if (place == places.end()) continue;
    const auto [name, is_new] = known.try_emplace(entry.name, double(names.size()));
    if (is_new) names.push_back(entry.name);
    rows.insert(rows.end(),
                {place->second.slot, place->second.stream, double(entry.number), name->second,
                 double(entry.begin_ns) * 1e-3, double(entry.end_ns) * 1e-3, double(entry.from != nullptr)});
  }
  napi_value result = nullptr;
  napi_create_object(e.env, &result);
  napi_set_named_property(e.env, result, "names", array_of_texts(e, names));
  napi_set_named_property(e.env, result, "rows", array_of_rows(e, rows));
  napi_set_named_property(e.env, result, "lost", make_number(e, double(recording.lost)));
  return result;
}

// nameOfGroup(group)
napi_value nameOfGroup(Environment& e, const Arguments& a) {
  const std::string& name = find_group(int(a.integer(0, 1, INT32_MAX, "the group")))->name();
  napi_value text = nullptr;
  napi_create_string_utf8(e.env, name.data(), name.size(), &text);
  return text;
}

}  // namespace js

std::vector<FunctionRow> profile_functions() {
  return {SG_FUNCTION(now), SG_FUNCTION(startCommandLog), SG_FUNCTION(stopCommandLog), SG_FUNCTION(nameOfGroup)};
}

}  // namespace sg
