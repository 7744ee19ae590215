package mapped_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/mapped"
)

// TestPresets follows what boards say into the devices' states, and commands out.
func TestPresets(t *testing.T) {
	value := "TOGGLE"
	truth := "true"
	tests := []struct {
		preset   string
		options  mapped.PresetOptions
		messages []string // topic, a space, payload, a space, verdict
		presence signalbox.Presence
		state    string
		command  signalbox.Command
		sent     string
	}{
		{
			preset: "tasmota",
			messages: []string{
				"tele/lamp/LWT Online 1",
				`tele/lamp/INFO1 {"a":1} 0`,
				`tele/lamp/STATE {"POWER":"ON"} 1`,
				`stat/lamp/POWER ON 0`,
				`stat/lamp/RESULT {"POWER":"OFF"} 1`,
				`tele/lamp/SENSOR {"Time":"2026-01-01T00:00:00","AM2301":{"Temperature":24.6}} 1`,
				`tele/other/SENSOR {"a":1} 2`,
			},
			presence: signalbox.Online, state: `{"Time":"2026-01-01T00:00:00","AM2301":{"Temperature":24.6}}`,
			command: signalbox.Command{Name: "Power1", Value: &value}, sent: "cmnd/lamp/Power1 TOGGLE",
		},
		{
			preset: "tasmota", options: mapped.PresetOptions{Root: "garden"},
			messages: []string{"tele/lamp/LWT Online 0", "garden/tele/lamp/LWT Online 1"},
			presence: signalbox.Online,
			command:  signalbox.Command{Name: "Status"}, sent: "garden/cmnd/lamp/Status ",
		},
		{
			preset: "homie",
			messages: []string{
				"homie/lamp/$homie 4.0 0", "homie/lamp/$state init 2", "homie/lamp/$name Lamp 0", "homie/lamp/$fw/name x 0", "homie/lamp/light/$properties power,level 0",
				"homie/lamp/light/power/$datatype boolean 0", "homie/lamp/$state ready 1", "homie/lamp/light/power false 1", "homie/lamp/light/name night_light 1",
				"homie/lamp/light/level 21.50 1",
			},
			presence: signalbox.Online, state: `{"light.level":21.50}`,
			command: signalbox.Command{Name: "light.power", Value: &truth}, sent: "homie/lamp/light/power/set true",
		},
		{
			preset: "homie", options: mapped.PresetOptions{Root: "h2"},
			messages: []string{"h2/lamp/$state ready 1", "h2/lamp/a/b true 1", "h2/lamp/$state lost 1"},
			presence: signalbox.Offline, state: `{"a.b":true}`,
		},
	}
	for i, tt := range tests {
		t.Run(fmt.Sprint(i, tt.preset), func(t *testing.T) {
			list, err := mapped.Preset(tt.preset, tt.options)
			if err != nil {
				t.Fatal(err)
			}
			h := open(t, t.TempDir(), mapped.Config{Mappings: list})
			d := h.add(t, "lamp")
			for _, message := range tt.messages {
				topic, rest, _ := strings.Cut(message, " ")
				last := strings.LastIndexByte(rest, ' ')
				h.want(t, topic, rest[:last], mapped.Verdict(rest[last+1]-'0'))
			}
			h.wantState(t, "lamp", tt.presence, tt.state)
			if tt.sent == "" {
				return
			}
			if err := h.sessions.Get(d.ID).Conn.Deliver(&tt.command); err != nil {
				t.Fatal(err)
			}
			if got := h.link.all(); got != tt.sent {
				t.Errorf("published was %q, want %q", got, tt.sent)
			}
		})
	}
}

// TestPresetOptions: each preset makes mappings that are good together, with the options.
func TestPresetOptions(t *testing.T) {
	var all []mapped.Mapping
	for _, name := range mapped.Presets() {
		list, err := mapped.Preset(name, mapped.PresetOptions{Type: "board", Register: true, Silence: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range list {
			if m.Type != "board" || !m.Register || m.Silence != time.Hour {
				t.Errorf("%s: %+v", name, m)
			}
		}
		all = append(all, list...)
	}
	if err := mapped.Check(all); err != nil {
		t.Error(err)
	}
	if _, err := mapped.Preset("zigbee", mapped.PresetOptions{}); err == nil || !strings.Contains(err.Error(), "homie, tasmota, thingsboard") {
		t.Errorf("an unknown preset gave %v", err)
	}
	if _, err := mapped.Preset("homie", mapped.PresetOptions{Root: "a/#"}); err == nil {
		t.Error("a root with a wildcard was taken")
	}
}

// TestPresetInList: a preset stands in a list of mappings, whose earlier filters count.
func TestPresetInList(t *testing.T) {
	list := []mapped.Mapping{
		{Filter: "tele/+/STATE", Device: "{1}", Format: mapped.FormatNone},
		{Preset: "tasmota", Type: "plug"},
		{Preset: "thingsboard"},
	}
	all, err := mapped.Expand(list)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 6 || all[0].Format != mapped.FormatNone || all[1].Filter != "tele/+/SENSOR" || all[1].Type != "plug" || all[1].Format != "" {
		t.Errorf("the list is %+v", all)
	}
	if again, err := mapped.Expand(all); err != nil || len(again) != len(all) {
		t.Errorf("expanded again it has %d, %v", len(again), err)
	}
	m, err := mapped.New(mapped.Config{Mappings: list}, mapped.Parts{})
	if err != nil {
		t.Fatal(err)
	}
	if number, _ := m.Find("tele/a/STATE"); number != 1 {
		t.Errorf("mapping %d has the topic", number)
	}
	if m.Dialect() == nil || !m.Dialect().MayPublish("v1/devices/me/telemetry") {
		t.Error("the dialect is not there")
	}
	if err := mapped.Check([]mapped.Mapping{list[1], list[0]}); err == nil || !strings.Contains(err.Error(), "mapping 1 has that filter") {
		t.Errorf("a filter after the preset gave %v", err)
	}
}

// TestSubscriptions: no filter is within another, and what is not kept is not asked for.
func TestSubscriptions(t *testing.T) {
	tests := []struct{ name, filters, want string }{
		{"apart", "a b/+", "a b/+"},
		{"within an earlier one", "a/# a a/b a/+/c b", "a/# b"},
		{"within a later one", "a/b a/+ c/d/e #", "#"},
		{"crossing", "+/b a/+", "+/b a/+"},
		{"deeper", "a/+ a/#", "a/#"},
		{"a level of its own", "a/+ a/+/+", "a/+ a/+/+"},
		{"dollar", "# $SYS/uptime", "# $SYS/uptime"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			list := []mapped.Mapping{{Filter: "none/#", Device: "d", Format: mapped.FormatNone}}
			for filter := range strings.FieldsSeq(tt.filters) {
				list = append(list, mapped.Mapping{Filter: filter, Device: "d"})
			}
			got, err := mapped.Subscriptions(list)
			if s := strings.Join(got, " "); err != nil || s != tt.want {
				t.Errorf("gave %s, %v; want %s", s, err, tt.want)
			}
		})
	}
	got, err := mapped.Subscriptions([]mapped.Mapping{{Preset: "tasmota"}})
	if s := strings.Join(got, " "); err != nil || s != "tele/+/SENSOR tele/+/STATE stat/+/RESULT tele/+/LWT" {
		t.Errorf("the preset gave %s, %v", s, err)
	}
}

// TestThingsBoardTelemetry reads the payloads of the device API.
func TestThingsBoardTelemetry(t *testing.T) {
	deep := strings.Repeat("[", 100_000)
	tests := []struct {
		name, topic, payload string
		want                 string // bodies with their times
		err                  string
	}{
		{"object", "telemetry", `{"temperature":42.0,"on":true}`, `0 {"temperature":42.0,"on":true}`, ""},
		{"with a time", "telemetry", `{"ts":1451649600512,"values":{"a": 1.50}}`, `1451649600512000 {"a": 1.50}`, ""},
		{"array", "telemetry", ` [{"a":1}, {"ts":1000,"values":{"b":2}},{"c":3}] `, `0 {"a":1} 1000000 {"b":2} 0 {"c":3}`, ""},
		{"a value named ts", "telemetry", `{"ts":"x","a":1}`, `0 {"ts":"x","a":1}`, ""},
		{"attributes", "attributes", `{"ts":1,"values":{"a":1}}`, `0 {"ts":1,"values":{"a":1}}`, ""},
		{"time that is none", "telemetry", `{"ts":"soon","values":{"a":1}}`, "", "Unix time"},
		{"no JSON", "telemetry", `hello`, "", "no JSON object"},
		{"empty", "telemetry", ``, "", "no JSON object"},
		{"empty array", "telemetry", `[]`, "", "without messages"},
		{"array with a number", "telemetry", `[{"a":1},2]`, "", "no JSON object"},
		{"array cut off", "telemetry", `[{"a":1}`, "", "no JSON"},
		{"deep array", "telemetry", deep, "", "no JSON"},
		{"no UTF-8", "telemetry", "[{\"a\":\"\xff\"}]", "", "UTF-8"},
		{"too many", "telemetry", "[" + strings.Repeat(`{"a":1},`, 1000) + `{"a":1}]`, "", "more than 1000"},
		{"too long", "telemetry", `{"a":"` + strings.Repeat("x", 1<<16) + `"}`, "", "at most 65536"},
	}
	var tb mapped.ThingsBoard
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			messages, ok, err := tb.Telemetry(nil, "v1/devices/me/"+tt.topic, []byte(tt.payload))
			if !ok {
				t.Fatal("it is no topic of telemetry")
			}
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || len(messages) != 0 {
					t.Errorf("gave %d messages and %v, which should say %q", len(messages), err, tt.err)
				}
				return
			}
			var got []string
			for _, m := range messages {
				got = append(got, fmt.Sprint(m.TimeMicros, " ", string(m.Body)))
			}
			if s := strings.Join(got, " "); err != nil || s != tt.want {
				t.Errorf("gave %s, %v; want %s", s, err, tt.want)
			}
		})
	}
	if _, ok, _ := tb.Telemetry(nil, "v1/devices/me/rpc/response/1", nil); ok {
		t.Error("an answer is telemetry")
	}
}

// TestThingsBoardCommands asks and reads answers.
func TestThingsBoardCommands(t *testing.T) {
	var tb mapped.ThingsBoard
	talk := tb.Converse(0)
	values := []string{"5", "ON", `{"a":1}`}
	for i, want := range []string{`{"method":"set \"x\"","params":5}`, `{"method":"set \"x\"","params":"ON"}`, `{"method":"set \"x\"","params":{"a":1}}`} {
		topic, payload, err := talk.Command(&signalbox.Command{ID: fmt.Sprint("c", i+1), Name: `set "x"`, Value: &values[i]})
		if err != nil || topic != fmt.Sprint("v1/devices/me/rpc/request/", i+1) || string(payload) != want {
			t.Errorf("command %d: %s %s %v", i, topic, payload, err)
		}
	}
	for _, tt := range []struct {
		name, topic, payload string
		ok                   bool
		want                 mapped.Answer
	}{
		{"a value", "2", `{"on":true}`, true, mapped.Answer{ID: "c2", OK: true, Value: []byte(`{"on":true}`)}},
		{"twice", "2", `{"on":true}`, false, mapped.Answer{}},
		{"an error", "1", `{"error":"no lamp"}`, true, mapped.Answer{ID: "c1", Error: "no lamp"}},
		{"a text", "3", `done`, true, mapped.Answer{ID: "c3", OK: true, Value: []byte(`"done"`)}},
		{"never asked", "4", `{}`, false, mapped.Answer{}},
		{"no number", "x", `{}`, false, mapped.Answer{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, ok := talk.Answer("v1/devices/me/rpc/response/"+tt.topic, []byte(tt.payload))
			if ok != tt.ok || a.ID != tt.want.ID || a.OK != tt.want.OK || string(a.Value) != string(tt.want.Value) || a.Error != tt.want.Error {
				t.Errorf("gave %+v, %v; want %+v, %v", a, ok, tt.want, tt.ok)
			}
		})
	}
	for i := range 300 {
		if _, _, err := talk.Command(&signalbox.Command{ID: fmt.Sprint("d", i), Name: "x"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := talk.Answer("v1/devices/me/rpc/response/4", nil); ok {
		t.Error("more than 256 commands are kept in mind")
	}
	if a, ok := talk.Answer("v1/devices/me/rpc/response/303", nil); !ok || a.ID != "d299" || !a.OK {
		t.Errorf("the newest answer is %+v, %v", a, ok)
	}
}

// TestThingsBoardRights: a device reaches the dialect's topics and no others.
func TestThingsBoardRights(t *testing.T) {
	var tb mapped.ThingsBoard
	talk := tb.Converse(0)
	for topic, want := range map[string]bool{
		"v1/devices/me/telemetry": true, "v1/devices/me/attributes": true, "v1/devices/me/rpc/response/1": true, "v1/devices/me/rpc/response/1/2": false,
		"v1/devices/me/rpc/request/1": false, "v1/devices/other/telemetry": false, "x": false,
	} {
		if tb.MayPublish(topic) != want {
			t.Errorf("publishing to %s: %v", topic, !want)
		}
	}
	for filter, want := range map[string][2]bool{
		"v1/devices/me/rpc/request/+": {true, true}, "v1/devices/me/attributes": {true, false}, "v1/devices/me/attributes/response/+": {true, false},
		"v1/devices/me/#": {true, true}, "v1/devices/+/rpc/request/+": {false, false}, "#": {false, false},
	} {
		if got := [2]bool{tb.MaySubscribe(filter), talk.Listens(filter)}; got != want {
			t.Errorf("subscribing to %s, and hearing commands: %v, want %v", filter, got, want)
		}
	}
}
