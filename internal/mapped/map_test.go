package mapped_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/ingest"
	"signalbox/internal/mapped"
	"signalbox/internal/registry"
	"signalbox/internal/session"
)

// TestCheck: what is wrong with a mapping is named.
func TestCheck(t *testing.T) {
	good := mapped.Mapping{Filter: "a/+/b", Device: "{1}", Field: "x", Format: mapped.FormatNumber}
	tests := []struct {
		name string
		edit func(m *mapped.Mapping)
		want string // part of the error; "" for none
	}{
		{"good", func(*mapped.Mapping) {}, ""},
		{"preset", func(m *mapped.Mapping) { *m = mapped.Mapping{Preset: "tasmota", Register: true, Root: "x"} }, ""},
		{"unknown preset", func(m *mapped.Mapping) { *m = mapped.Mapping{Preset: "zigbee"} }, "homie, tasmota, thingsboard"},
		{"preset and a filter", func(m *mapped.Mapping) { m.Preset = "homie" }, "only root, type"},
		{"root without a preset", func(m *mapped.Mapping) { m.Root = "x" }, "preset alone"},
		{"a root with a wildcard", func(m *mapped.Mapping) { *m = mapped.Mapping{Preset: "homie", Root: "x/#"} }, "before its end"},
		{"the first sensor", func(m *mapped.Mapping) { m.Filter, m.Device = "Environ/Temperature", "env01" }, ""},
		{"no filter", func(m *mapped.Mapping) { m.Filter = "" }, "filter is missing"},
		{"hash in the middle", func(m *mapped.Mapping) { m.Filter = "a/#/b" }, "# before its end"},
		{"plus beside letters", func(m *mapped.Mapping) { m.Filter = "a+/b" }, "beside other characters"},
		{"shared", func(m *mapped.Mapping) { m.Filter = "$share/g/a" }, "shared subscription"},
		{"native", func(m *mapped.Mapping) { m.Filter = "signalbox/+/telemetry" }, "hub's own topics"},
		{"NUL", func(m *mapped.Mapping) { m.Filter = "a\x00" }, "NUL"},
		{"17 wildcards", func(m *mapped.Mapping) { m.Filter = "a" + strings.Repeat("/+", 17) }, "at most 16"},
		{"no device", func(m *mapped.Mapping) { m.Device = "" }, "device's name is missing"},
		{"a wildcard too many", func(m *mapped.Mapping) { m.Device = "{2}" }, "its filter has 1"},
		{"a brace", func(m *mapped.Mapping) { m.Device = "{name}" }, "{1}, {2}"},
		{"bad device", func(m *mapped.Mapping) { m.Device = "a b" }, "letters, digits"},
		{"bad device with a wildcard", func(m *mapped.Mapping) { m.Device = "a b{1}" }, "letters, digits"},
		{"device of a #", func(m *mapped.Mapping) { m.Filter, m.Device = "a/+/#", "{2}" }, "several levels"},
		{"field of a #", func(m *mapped.Mapping) { m.Filter, m.Field = "a/+/#", "{2}" }, ""},
		{"bad type", func(m *mapped.Mapping) { m.Type = "a b" }, "device type"},
		{"register a fixed one", func(m *mapped.Mapping) { m.Device, m.Register = "env01", true }, "made at the start"},
		{"unknown format", func(m *mapped.Mapping) { m.Format = "xml" }, "allowed are json, number"},
		{"number without a field", func(m *mapped.Mapping) { m.Field = "" }, "field is missing"},
		{"json without a field", func(m *mapped.Mapping) { m.Field, m.Format = "", "" }, ""},
		{"field with an empty part", func(m *mapped.Mapping) { m.Field = "a..b" }, "empty part"},
		{"field with a wildcard too many", func(m *mapped.Mapping) { m.Field = "{3}" }, "names wildcard {3}"},
		{"presence with a field", func(m *mapped.Mapping) { m.Format = mapped.FormatPresence }, "no meaning"},
		{"words without presence", func(m *mapped.Mapping) { m.Online = []string{"on"} }, "format presence alone"},
		{"a word for both", func(m *mapped.Mapping) {
			m.Field, m.Format, m.Online, m.Offline = "", mapped.FormatPresence, []string{"x"}, []string{"x"}
		}, "both online and offline"},
		{"short silence", func(m *mapped.Mapping) { m.Silence = time.Millisecond }, "at least 1s"},
		{"no silence", func(m *mapped.Mapping) { m.Silence = mapped.Never }, ""},
		{"command", func(m *mapped.Mapping) { m.Command = &mapped.Template{Topic: "cmnd/{1}/{command}", QoS: 2} }, ""},
		{"command without a topic", func(m *mapped.Mapping) { m.Command = &mapped.Template{} }, "topic is missing"},
		{"command with a wildcard", func(m *mapped.Mapping) { m.Command = &mapped.Template{Topic: "a/+"} }, "wildcard"},
		{"command of an unknown word", func(m *mapped.Mapping) { m.Command = &mapped.Template{Topic: "a/{comand}"} }, "{comand}"},
		{"command with a wildcard too many", func(m *mapped.Mapping) { m.Command = &mapped.Template{Topic: "a", Payload: "{2}"} }, "{2}"},
		{"JSON in a topic", func(m *mapped.Mapping) { m.Command = &mapped.Template{Topic: "a/{value.json}"} }, "for payloads"},
		{"qos", func(m *mapped.Mapping) { m.Command = &mapped.Template{Topic: "a", QoS: 3} }, "0, 1 and 2"},
		{"a command that its own filter matches", func(m *mapped.Mapping) { m.Command = &mapped.Template{Topic: "a/{device}/b"} }, "own filter matches"},
		{"a command that a # matches", func(m *mapped.Mapping) {
			m.Filter, m.Device, m.Command = "a/#", "d", &mapped.Template{Topic: "a/{command}"}
		}, ""},
		{"a command that a filter matches which keeps nothing", func(m *mapped.Mapping) {
			m.Field, m.Format, m.Command = "", mapped.FormatNone, &mapped.Template{Topic: "a/{device}/b"}
		}, ""},
		{"a wildcard's number without wildcards", func(m *mapped.Mapping) {
			m.Filter, m.Device, m.Command = "a", "d", &mapped.Template{Topic: "b/{1}"}
		}, "the filter has no wildcards"},
		{"words of a short silence", func(m *mapped.Mapping) { m.Silence = time.Millisecond }, "at least 1s, or never"},
		{"native command", func(m *mapped.Mapping) { m.Command = &mapped.Template{Topic: "signalbox/{device}/command"} }, "hub's own"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := good
			tt.edit(&m)
			err := mapped.Check([]mapped.Mapping{{Filter: "first", Device: "d"}, m})
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "mapping 2")):
				t.Errorf("the error %v does not say %q of mapping 2", err, tt.want)
			case err != nil && signalbox.KindOf(err) != signalbox.KindInvalid:
				t.Errorf("the error is of kind %d", signalbox.KindOf(err))
			}
		})
	}
	for name, list := range map[string][]mapped.Mapping{
		"preset already":                      {{Preset: "tasmota"}, {Preset: "tasmota"}},
		`preset "homie"): mapping 1`:          {{Preset: "homie"}, {Preset: "homie", Root: "homie"}},
		`preset "thingsboard"): mapping 1`:    {{Preset: "thingsboard"}, {Preset: "thingsboard"}},
		"mapping 1 (filter \"v1/devices/me/x": {{Filter: "v1/devices/me/x", Device: "d"}, {Preset: "thingsboard"}},
		"mapping 2 (filter \"v1/devices/me":   {{Preset: "thingsboard"}, {Filter: "v1/devices/me", Device: "d"}},
		"mapping 2 (filter \"x\")":            {{Preset: "thingsboard"}, {Filter: "x", Device: "d", Command: &mapped.Template{Topic: "v1/devices/me/{command}"}}},
		"":                                    {{Preset: "tasmota"}, {Preset: "tasmota", Root: "garden"}, {Preset: "homie"}, {Preset: "thingsboard"}, {Filter: "v1/devices/you", Device: "d"}},
	} {
		if err := mapped.Check(list); (err == nil) != (name == "") || err != nil && !strings.Contains(err.Error(), name) {
			t.Errorf("the error is %v, not %q", err, name)
		}
	}
	if err := mapped.Check([]mapped.Mapping{good, good}); err == nil || !strings.Contains(err.Error(), "mapping 1 has that filter") {
		t.Errorf("one filter twice gave %v", err)
	}
}

// match is 5.0, 4.7, in the plainest way, with what the wildcards stand for.
func match(filter, topic string) (wildcards []string, ok bool) {
	f, levels := strings.Split(filter, "/"), strings.Split(topic, "/")
	if (f[0] == "+" || f[0] == "#") && (strings.HasPrefix(topic, "$") || levels[0] == "signalbox") {
		return nil, false
	}
	for i, level := range f {
		switch {
		case level == "#":
			return append(wildcards, strings.Join(levels[min(i, len(levels)):], "/")), true
		case i >= len(levels):
			return nil, false
		case level == "+":
			wildcards = append(wildcards, levels[i])
		case level != levels[i]:
			return nil, false
		}
	}
	return wildcards, len(f) == len(levels)
}

// TestFind compares the index with trying all filters in their order.
func TestFind(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	words := []string{"a", "b", "", "$x", "signalbox", "+", "+", "#"}
	text := func(words []string) string {
		levels := make([]string, 1+random.IntN(4))
		for i := range levels {
			levels[i] = words[random.IntN(len(words))]
		}
		return strings.Join(levels, "/")
	}
	found := 0
	for range 300 {
		var list []mapped.Mapping
		for range 1 + random.IntN(20) {
			next := append(slices.Clone(list), mapped.Mapping{Filter: text(words), Device: "d"})
			if mapped.Check(next) == nil {
				list = next
			}
		}
		m, err := mapped.New(mapped.Config{Mappings: list}, mapped.Parts{})
		if err != nil {
			t.Fatal(err)
		}
		for range 50 {
			topic := text(words[:5])
			if topic == "" {
				continue // is none (5.0, 4.7.3)
			}
			wantNumber, wantWildcards := 0, []string(nil)
			for i, l := range list {
				if wildcards, ok := match(l.Filter, topic); ok {
					wantNumber, wantWildcards = i+1, wildcards
					break
				}
			}
			number, wildcards := m.Find(topic)
			if number != wantNumber || !slices.Equal(wildcards, wantWildcards) {
				t.Fatalf("%q among %+v: mapping %d with %q, want %d with %q", topic, list, number, wildcards, wantNumber, wantWildcards)
			}
			if m.Matches(topic) != (wantNumber != 0) {
				t.Fatalf("%q: Matches gave %v", topic, wantNumber == 0)
			}
			if number != 0 {
				found++
			}
		}
	}
	if found < 1000 {
		t.Errorf("only %d topics had a mapping", found)
	}
}

// TestFormats follows payloads into the device's state.
func TestFormats(t *testing.T) {
	h := open(t, t.TempDir(), mapped.Config{MaxBody: 200, Mappings: []mapped.Mapping{
		{Filter: "Environ/Temperature", Device: "env01", Field: "temp", Format: mapped.FormatNumber},
		{Filter: "sensors/+/climate", Device: "{1}"},
		{Filter: "sensors/+/raw/+", Device: "{1}", Field: "{2}"},
		{Filter: "sensors/+/text", Device: "{1}", Field: "t\"", Format: mapped.FormatText},
		{Filter: "sensors/+/value", Device: "{1}", Field: "v.w", Format: mapped.FormatValue},
		{Filter: "rooms/+/+/temp", Device: "{2}-{1}", Field: "temp", Format: mapped.FormatNumber},
		{Filter: "noise/#", Device: "env01", Format: mapped.FormatNone},
	}})
	h.add(t, "s1")
	h.add(t, "north-7")
	tests := []struct {
		name, topic, payload, device string
		want                         mapped.Verdict
		telemetry                    string // with Taken
	}{
		{"the sensor", "Environ/Temperature", "25.8 °C", "env01", mapped.Taken, `{"temp":25.8}`},
		{"its other version", "Environ/Temperature", "25°C", "env01", mapped.Taken, `{"temp":25}`},
		{"no number", "Environ/Temperature", "hello world", "env01", mapped.Dropped, ""},
		{"nothing", "Environ/Temperature", "", "env01", mapped.Dropped, ""},
		{"no mapping", "outTopic", "hello world", "", mapped.None, ""},
		{"kept nowhere", "noise/a/b", "x", "", mapped.None, ""},
		{"object", "sensors/s1/climate", ` {"t": 15.0, "h":"90"}`, "s1", mapped.Taken, ` {"t": 15.0, "h":"90"}`},
		{"no object", "sensors/s1/climate", `[1]`, "s1", mapped.Dropped, ""},
		{"too deep", "sensors/s1/climate", strings.Repeat(`{"a":`, 20) + "1" + strings.Repeat("}", 20), "s1", mapped.Dropped, ""},
		{"too long", "sensors/s1/climate", `{"a":"` + strings.Repeat("x", 200) + `"}`, "s1", mapped.Dropped, ""},
		{"no UTF-8", "sensors/s1/climate", "{\"a\":\"\xff\"}", "s1", mapped.Dropped, ""},
		{"value under a field", "sensors/s1/raw/list", `[1, 2.50]`, "s1", mapped.Taken, `{"list":[1, 2.50]}`},
		{"field to be escaped", "sensors/s1/raw/a\"b\\", `null`, "s1", mapped.Taken, `{"a\"b\\":null}`},
		{"more than a value", "sensors/s1/raw/a", `1,"b":2`, "s1", mapped.Dropped, ""},
		{"a brace too many", "sensors/s1/raw/a", `1}`, "s1", mapped.Dropped, ""},
		{"empty field", "sensors/s1/raw/", `1`, "s1", mapped.Dropped, ""},
		{"long field", "sensors/s1/raw/" + strings.Repeat("x", 129), `1`, "s1", mapped.Dropped, ""},
		{"text", "sensors/s1/text", "a \"b\"\n\x01 é", "s1", mapped.Taken, `{"t\"":"a \"b\"\n\u0001 é"}`},
		{"text that is none", "sensors/s1/text", "\xff", "s1", mapped.Dropped, ""},
		{"a number as value", "sensors/s1/value", "-15.0e2", "s1", mapped.Taken, `{"v.w":-15.0e2}`},
		{"true as value", "sensors/s1/value", "true", "s1", mapped.Taken, `{"v.w":true}`},
		{"text as value", "sensors/s1/value", "007", "s1", mapped.Taken, `{"v.w":"007"}`},
		{"infinity as value", "sensors/s1/value", "1e999", "s1", mapped.Taken, `{"v.w":"1e999"}`},
		{"two wildcards in a name", "rooms/7/north/temp", "20", "north-7", mapped.Taken, `{"temp":20}`},
		{"unknown device", "sensors/s2/climate", `{}`, "", mapped.Dropped, ""},
		{"empty device", "sensors//climate", `{}`, "", mapped.Dropped, ""},
		{"very long device", "sensors/" + strings.Repeat("x", 1000) + "/climate", `{}`, "", mapped.Dropped, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			taking := mapped.Taking{Topic: tt.topic, Payload: []byte(tt.payload), Link: h.link}
			if got := h.m.Take(&taking); got != tt.want {
				t.Fatalf("verdict %d, want %d", got, tt.want)
			}
			if tt.want != mapped.Taken {
				return
			}
			h.wantState(t, tt.device, signalbox.Online, tt.telemetry)
			if taking.Position == 0 || taking.Position != h.log.Head() {
				t.Errorf("the position is %d, the log's head %d", taking.Position, h.log.Head())
			}
		})
	}
	s := h.m.Stats()
	if s.Wrong.Load() != 11 || s.Unknown.Load() != 3 || s.Taken.Load() != 11 {
		t.Errorf("counted %d wrong, %d unknown, %d taken", s.Wrong.Load(), s.Unknown.Load(), s.Taken.Load())
	}
	if d := h.devices.Find("env01"); d.Type() != "sensor" {
		t.Errorf("the fixed device is of type %q", d.Type())
	}
	if secret, _ := h.devices.Find("env01").Secret(); secret.Sum == [32]byte{} {
		t.Error("the fixed device has no secret")
	}
}

// TestAlso: an entry that comes with a message is behind it, and not appended without it.
func TestAlso(t *testing.T) {
	h := open(t, t.TempDir(), mapped.Config{Mappings: []mapped.Mapping{
		{Filter: "t", Device: "env01", Field: "temp", Format: mapped.FormatNumber},
		{Filter: "p", Device: "env01", Format: mapped.FormatPresence},
	}})
	for _, tt := range []struct {
		topic, payload string
		retained       bool
		want           mapped.Verdict
	}{
		{"t", "x", false, mapped.Dropped},
		{"t", "20", true, mapped.Taken},
		{"t", "20", true, mapped.Dropped},
		{"p", "online", false, mapped.Taken},
		{"p", "online", false, mapped.Dropped},
		{"t", "21", false, mapped.Taken},
		{"p", "offline", false, mapped.Taken},
		{"p", "offline", false, mapped.Dropped},
		{"t", "22", false, mapped.Taken},
	} {
		also := signalbox.Entry{Kind: signalbox.EntryBroker, Body: []byte("record")}
		taking := mapped.Taking{Topic: tt.topic, Payload: []byte(tt.payload), Also: &also, Retained: tt.retained}
		if got := h.m.Take(&taking); got != tt.want {
			t.Fatalf("%s %s: verdict %d, want %d", tt.topic, tt.payload, got, tt.want)
		}
		if tt.want == mapped.Taken && (also.Position == 0 || taking.Position != also.Position || also.Position != h.log.Head()) {
			t.Errorf("%s %s: position %d, of the record %d, head %d", tt.topic, tt.payload, taking.Position, also.Position, h.log.Head())
		}
		if tt.want != mapped.Taken && also.Position != 0 {
			t.Errorf("%s %s: the record was appended at %d", tt.topic, tt.payload, also.Position)
		}
	}
}

// TestPresence follows a device without a connection through its life.
func TestPresence(t *testing.T) {
	dir := t.TempDir()
	cfg := mapped.Config{Mappings: []mapped.Mapping{
		{Filter: "s/+/temp", Device: "{1}", Field: "temp", Format: mapped.FormatNumber, Silence: time.Minute},
		{Filter: "s/+/config", Device: "{1}", Silence: time.Hour},
		{Filter: "s/+/lwt", Device: "{1}", Format: mapped.FormatPresence, Online: []string{"Online", "up"}, Offline: []string{"Offline"}},
	}}
	h := open(t, dir, cfg)
	d := h.add(t, "a")
	h.wantState(t, "a", signalbox.Offline, "")
	past := func(topic, payload string, want mapped.Verdict) {
		t.Helper()
		if got := h.m.Take(&mapped.Taking{Topic: topic, Payload: []byte(payload), Link: h.link, Retained: true}); got != want {
			t.Fatalf("retained %s %q gave the verdict %d, want %d", topic, payload, got, want)
		}
	}
	past("s/a/temp", "19", mapped.Taken)
	h.wantState(t, "a", signalbox.Offline, `{"temp":19}`)
	past("s/a/temp", "18", mapped.Dropped)
	h.want(t, "s/a/temp", "20", mapped.Taken)
	h.wantState(t, "a", signalbox.Online, `{"temp":20}`)
	past("s/a/temp", "17", mapped.Dropped)
	h.m.Sweep(time.Now().Add(30 * time.Second))
	h.wantState(t, "a", signalbox.Online, `{"temp":20}`)
	h.m.Sweep(time.Now().Add(61 * time.Second))
	h.wantState(t, "a", signalbox.Offline, `{"temp":20}`)
	h.want(t, "s/a/config", `{"c":1}`, mapped.Taken)
	h.want(t, "s/a/temp", "21", mapped.Taken)
	h.m.Sweep(time.Now().Add(61 * time.Second)) // the configuration's hour counts
	h.wantState(t, "a", signalbox.Online, `{"temp":21}`)
	h.want(t, "s/a/lwt", "gone", mapped.Dropped)
	h.want(t, "s/a/lwt", "Offline", mapped.Taken)
	h.want(t, "s/a/lwt", "Offline", mapped.Dropped)
	h.wantState(t, "a", signalbox.Offline, `{"temp":21}`)
	past("s/a/lwt", "up", mapped.Taken)
	h.wantState(t, "a", signalbox.Online, `{"temp":21}`)
	if v := d.View(); v.Status != "online" || v.Protocol != signalbox.ProtocolMapped {
		t.Errorf("it is shown as %+v", v)
	}
	if got := h.m.Stats().Silent.Load(); got != 1 {
		t.Errorf("%d were silent", got)
	}
	want := []string{
		`telemetry {"temp":19}`, "online", `telemetry {"temp":20}`, "offline silent", "online", `telemetry {"c":1}`, `telemetry {"temp":21}`,
		"offline reported", "online",
	}
	if got := h.entries(t, d.ID); !slices.Equal(got, want) {
		t.Errorf("the log has\n%q, want\n%q", got, want)
	}
}

// TestOwnConnection: mapped messages of a device that is connected are part of that.
func TestOwnConnection(t *testing.T) {
	h := open(t, t.TempDir(), mapped.Config{Mappings: []mapped.Mapping{
		{Filter: "s/+", Device: "{1}", Field: "temp", Format: mapped.FormatNumber, Command: &mapped.Template{Topic: "c/{device}"}},
		{Filter: "p/+", Device: "{1}", Format: mapped.FormatPresence},
	}})
	d := h.add(t, "a")
	h.want(t, "s/a", "1", mapped.Taken)
	virtual := h.sessions.Get(d.ID)
	own := &session.Session{ID: h.sessions.NextID(), Device: d.ID, Protocol: signalbox.ProtocolV2, Conn: nobody{}}
	replaced, v := h.road.Connect(d, own, netip.Addr{})
	if v != ingest.Stored || replaced != virtual || virtual == nil {
		t.Fatalf("the connection replaced %v, verdict %d", replaced, v)
	}
	virtual.Conn.End("replaced")
	h.want(t, "s/a", "2", mapped.Taken)
	h.want(t, "p/a", "offline", mapped.Dropped)
	h.m.Sweep(time.Now().Add(24 * time.Hour))
	if h.sessions.Get(d.ID) != own {
		t.Fatal("the device's own connection is not its session any more")
	}
	h.wantState(t, "a", signalbox.Online, `{"temp":2}`)
	h.road.Disconnect(d, own, "closed")
	h.want(t, "s/a", "3", mapped.Taken)
	next := h.sessions.Get(d.ID)
	if next == nil || next == virtual || next.ID <= own.ID || next.Protocol != signalbox.ProtocolMapped {
		t.Fatalf("the next session is %+v", next)
	}
	next.Conn.End("secret_changed")
	h.wantState(t, "a", signalbox.Offline, `{"temp":3}`)
	if n := h.commands.count(); n != 2 {
		t.Errorf("the command road heard of %d sessions", n)
	}
}

type nobody struct{}

func (nobody) Deliver(*signalbox.Command) error { return nil }
func (nobody) End(string)                       {}

// TestCommands publishes by the template of the mapping that the device came by.
func TestCommands(t *testing.T) {
	h := open(t, t.TempDir(), mapped.Config{Mappings: []mapped.Mapping{
		{Filter: "deaf/+", Device: "{1}"},
		{Filter: "zigbee/+/+", Device: "{2}", Command: &mapped.Template{Topic: "zigbee/{1}/{device}/set", Payload: `{"{command}":{value.json}}`}},
		{Filter: "numbered", Device: "numbered", Command: &mapped.Template{Topic: "n/{id}"}},
		{Filter: "lamp", Device: "lamp"},
		{Filter: "lamp/state", Device: "lamp", Command: &mapped.Template{Topic: "lamp/{command}", Payload: "{value}"}},
	}})
	d := h.add(t, "a")
	value := "ON"
	command := &signalbox.Command{ID: "1", Name: "state", Value: &value}
	h.want(t, "deaf/a", `{}`, mapped.Taken)
	s := h.sessions.Get(d.ID)
	if s.Listening() || signalbox.CodeOf(s.Conn.Deliver(command)) != "device_not_listening" {
		t.Error("a device without a template listens")
	}
	h.want(t, "zigbee/hall/a", `{}`, mapped.Taken)
	if n := h.commands.count(); n != 2 {
		t.Errorf("the command road heard %d times, want of the session and that it listens", n)
	}
	if !s.Listening() || s.Fits(command) != nil {
		t.Error("a device with a template does not listen")
	}
	if err := s.Conn.Deliver(command); err != nil {
		t.Error(err)
	}
	h.want(t, "zigbee/attic/a", `{}`, mapped.Taken)
	h.want(t, "deaf/a", `{}`, mapped.Taken)
	if err := s.Conn.Deliver(command); err != nil {
		t.Error(err)
	}
	h.want(t, "lamp", `{}`, mapped.Taken) // its other mapping has the template
	lamp := h.sessions.Get(h.devices.Find("lamp").ID)
	if err := lamp.Conn.Deliver(command); err != nil {
		t.Error(err)
	}
	if got, want := h.link.all(), "zigbee/hall/a/set {\"state\":\"ON\"}\nzigbee/attic/a/set {\"state\":\"ON\"}\nlamp/state ON"; got != want {
		t.Errorf("published was\n%s\nwant\n%s", got, want)
	}
	bad := &signalbox.Command{Name: "a/b"}
	if err := lamp.Fits(bad); signalbox.CodeOf(err) != "command_unsuitable" {
		t.Errorf("a command with a slash gave %v", err)
	}
	h.want(t, "numbered", `{}`, mapped.Taken)
	if err := h.sessions.Get(h.devices.Find("numbered").ID).Fits(&signalbox.Command{Name: "x"}); err != nil {
		t.Errorf("a command without an ID yet gave %v", err)
	}
	h.link.err = errAway
	if err := lamp.Conn.Deliver(command); err == nil {
		t.Error("a command went out by a broker that is away")
	}
	if n, u := h.m.Stats().Commands.Load(), h.m.Stats().Undelivered.Load(); n != 3 || u != 2 {
		t.Errorf("counted %d commands, %d undelivered", n, u)
	}
}

// TestOwnConnectionsCommands: what a device with a connection of its own is told.
func TestOwnConnectionsCommands(t *testing.T) {
	tasmota, err := mapped.Preset("tasmota", mapped.PresetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h := open(t, t.TempDir(), mapped.Config{Mappings: append(tasmota,
		mapped.Mapping{Filter: "lamp", Device: "lamp", Command: &mapped.Template{Topic: "lamp/{command}", QoS: 1, Retain: true}},
		mapped.Mapping{Filter: "z/+/+", Device: "z-{2}", Command: &mapped.Template{Topic: "z/{1}/{2}/set"}},
	)[4:]}) // without tele/+/SENSOR and the like: their first wildcard is any name
	h.add(t, "z-b")
	for _, tt := range []struct{ device, want string }{
		{"lamp", "lamp/x 1 true"},
		{"plug", "cmnd/plug/x 0 false"},
		{"z-b", "cmnd/z-b/x 0 false"},
	} {
		topic, _, qos, retain, err := h.m.Command(tt.device, &signalbox.Command{Name: "x"})
		if got := fmt.Sprint(topic, " ", qos, " ", retain); err != nil || got != tt.want {
			t.Errorf("%s: %s, %v; want %s", tt.device, got, err, tt.want)
		}
	}
	h.want(t, "z/a/b", `{}`, mapped.Taken)
	if topic, _, _, _, err := h.m.Command("z-b", &signalbox.Command{Name: "x"}); err != nil || topic != "z/a/b/set" {
		t.Errorf("the device that came by another mapping: %s, %v", topic, err)
	}
	if _, _, _, _, err := h.m.Command("lamp", &signalbox.Command{Name: "a/b"}); signalbox.CodeOf(err) != "command_unsuitable" {
		t.Errorf("a command with a slash gave %v", err)
	}
	none := open(t, t.TempDir(), mapped.Config{Mappings: []mapped.Mapping{{Filter: "a/+", Device: "{1}"}}})
	if _, _, _, _, err := none.m.Command("b", &signalbox.Command{Name: "x"}); signalbox.CodeOf(err) != "device_not_listening" {
		t.Errorf("without a template: %v", err)
	}
}

// TestRights: a device reaches the topics that are mapped to it, and those of its commands.
func TestRights(t *testing.T) {
	tasmota, err := mapped.Preset("tasmota", mapped.PresetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h := open(t, t.TempDir(), mapped.Config{Mappings: append(tasmota,
		mapped.Mapping{Filter: "Environ/Temperature", Device: "env01", Field: "temp", Format: mapped.FormatNumber, Command: &mapped.Template{Topic: "Environ/{command}/set"}},
		mapped.Mapping{Filter: "z/+/+", Device: "z-{2}", Command: &mapped.Template{Topic: "z/{1}/{2}/set"}},
	)})
	for _, tt := range []struct {
		device, topic string
		want          bool
	}{
		{"lamp", "tele/lamp/SENSOR", true},
		{"lamp", "tele/lamp/INFO1", true},
		{"lamp", "tele/other/SENSOR", false},
		{"lamp", "cmnd/lamp/Power", false},
		{"env01", "Environ/Temperature", true},
		{"env02", "Environ/Temperature", false},
		{"env01", "Environ/Humidity", false},
		{"z-b", "z/a/b", true},
		{"z-a", "z/a/b", false},
	} {
		if got := h.m.Allowed(tt.device, tt.topic); got != tt.want {
			t.Errorf("%s may publish to %s: %v", tt.device, tt.topic, got)
		}
	}
	h.add(t, "z-b")
	for _, tt := range []struct {
		device, filter string
		want           bool
	}{
		{"lamp", "cmnd/lamp/#", true},
		{"lamp", "cmnd/lamp/+", true},
		{"lamp", "cmnd/lamp/Power", true},
		{"lamp", "cmnd/lamp", true},
		{"lamp", "cmnd/other/#", false},
		{"lamp", "cmnd/+/Power", false},
		{"lamp", "cmnd/#", false},
		{"lamp", "#", false},
		{"lamp", "tele/lamp/SENSOR", false},
		{"env01", "Environ/+/set", true},
		{"env01", "Environ/fan/set", true},
		{"env01", "Environ/#", false},
		{"env01", "Environ/+", false},
		{"env02", "Environ/fan/set", false},
		{"z-b", "z/a/b/set", true},
		{"z-b", "z/+/b/set", true},
		{"z-b", "z/a/c/set", false},
		{"z-b", "z/#", false},
	} {
		if got := h.m.Hears(tt.device, tt.filter); got != tt.want {
			t.Errorf("%s may subscribe to %s: %v", tt.device, tt.filter, got)
		}
	}
	if got := h.m.CommandTopics("lamp"); len(got) != len(tasmota) || got[0] != "cmnd/lamp/+" {
		t.Errorf("the command topics are %q", got)
	}
}

// TestQuarantine: unseen devices wait for a person, up to a bound.
func TestQuarantine(t *testing.T) {
	dir := t.TempDir()
	cfg := mapped.Config{MaxPending: 3, Mappings: []mapped.Mapping{{Filter: "s/+", Device: "{1}", Type: "board", Register: true}}}
	h := open(t, dir, cfg)
	h.run(t)
	for i := range 3 {
		topic := fmt.Sprintf("s/new%d", i)
		h.want(t, topic, `{"a":1}`, mapped.Dropped)
		until(t, "it is pending", func() bool { return h.devices.Pending() == i+1 })
	}
	until(t, "the last is counted", func() bool { return h.m.Stats().Registered.Load() == 3 })
	h.want(t, "s/new3", `{"a":1}`, mapped.Dropped)
	h.want(t, "s/not a name", `{"a":1}`, mapped.Dropped)
	d := h.devices.Find("new0")
	if v := d.View(); !v.Pending || !v.Disabled || v.Type != "board" || v.Presence != signalbox.Offline {
		t.Errorf("it is %+v", v)
	}
	h.want(t, "s/new0", `{"a":2}`, mapped.Dropped)
	seen, ok := h.devices.Seen(d.ID)
	if !ok || seen.Messages != 2 || seen.Topic != "s/new0" || seen.At.IsZero() {
		t.Errorf("seen was %+v", seen)
	}
	if h.devices.Find("new3") != nil || h.m.Stats().Surplus.Load() != 2 {
		t.Errorf("one over the bound was taken, or %d counted", h.m.Stats().Surplus.Load())
	}
	off := false
	if err := h.devices.Update(t.Context(), d, registry.Edit{Disabled: &off}, nil); signalbox.CodeOf(err) != "device_pending" {
		t.Errorf("enabling it gave %v", err)
	}
	if err := h.devices.Approve(t.Context(), d, "lamp"); err != nil {
		t.Fatal(err)
	}
	h.want(t, "s/new0", `{"a":3}`, mapped.Taken)
	h.wantState(t, "new0", signalbox.Online, `{"a":3}`)
	if err := h.devices.Approve(t.Context(), d, ""); signalbox.CodeOf(err) != "not_pending" {
		t.Errorf("approving it again gave %v", err)
	}
	if err := h.devices.Remove(t.Context(), h.devices.Find("new1"), nil); err != nil {
		t.Fatal(err)
	}
	if n := h.devices.Pending(); n != 1 {
		t.Errorf("%d are pending", n)
	}
	h.want(t, "s/new3", `{"a":1}`, mapped.Dropped)
	until(t, "there is room again", func() bool { return h.devices.Find("new3") != nil })
	on := true
	if err := h.devices.Update(t.Context(), d, registry.Edit{Disabled: &on}, nil); err != nil {
		t.Fatal(err)
	}
	h.want(t, "s/new0", `{"a":4}`, mapped.Dropped)
	if n := h.m.Stats().Disabled.Load(); n != 1 {
		t.Errorf("%d messages of disabled devices", n)
	}
}

// TestAllocations: the common roads do not allocate.
func TestAllocations(t *testing.T) {
	// Its log does not commit, which allocates beside what is measured.
	h := openStill(t, t.TempDir(), mapped.Config{Mappings: []mapped.Mapping{
		{Filter: "Environ/Temperature", Device: "env01", Field: "temp", Format: mapped.FormatNumber},
		{Filter: "sensors/+/climate", Device: "{1}", Command: &mapped.Template{Topic: "c/{1}"}},
	}})
	h.add(t, "s1")
	for _, tt := range []struct{ topic, payload string }{{"Environ/Temperature", "25.8 °C"}, {"sensors/s1/climate", `{"t":20.5,"h":40}`}} {
		taking := mapped.Taking{Topic: tt.topic, Payload: []byte(tt.payload), Link: h.link}
		take := func() {
			if v := h.m.Take(&taking); v != mapped.Taken {
				t.Fatalf("verdict %d", v)
			}
		}
		for range 1000 {
			take()
		}
		if n := testing.AllocsPerRun(2000, take); n > 0.5 {
			t.Errorf("%s: %v allocations a message", tt.topic, n)
		}
	}
	if n := testing.AllocsPerRun(1000, func() { h.m.Allowed("s1", "sensors/s1/climate") }); n != 0 {
		t.Errorf("Allowed allocates %v times", n)
	}
}
