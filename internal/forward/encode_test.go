package forward

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/replay"
)

// testCursor gives cursors of one epoch.
func testCursor(dst []byte, p signalbox.Position) []byte {
	return strconv.AppendUint(append(dst, "k3f9q2-"...), uint64(p), 10)
}

// encodeOne gives what one entry becomes.
func encodeOne(t *testing.T, spec Spec, kind signalbox.EntryKind, body string, change func(*Message)) (m Message, reason string, ok bool) {
	t.Helper()
	spec.Name = "to"
	if spec.To == "" {
		spec.To = "udp://host:1"
	}
	if err := spec.Check(); err != nil {
		t.Fatal(err)
	}
	e, err := newEncoder(&spec, testCursor, "0badcafe")
	if err != nil {
		t.Fatal(err)
	}
	e.replay = replay.Mark{ID: "r1", Hub: "h1"}
	e.command = func(body []byte) (string, []byte, error) { return "", append([]byte(nil), body...), nil }
	m = Message{
		Position: 17, Device: 1, Name: "станция1", Kind: kind.String(),
		ReceivedMicros: time.Date(2026, 11, 22, 12, 0, 0, 123_456_000, time.UTC).UnixMicro(), TimeMicros: time.Date(2026, 11, 22, 11, 59, 59, 7_000_000, time.UTC).UnixMicro(),
	}
	if change != nil {
		change(&m)
	}
	var b batch
	if !e.add(&b, m, kind, "box", []byte(body)) {
		return m, "", false
	}
	b.seal()
	return b.msgs[0], b.drafts[0].reason, true
}

const oneObject = `{"temp":25.80,"text":"a\"b","deep":{"x":1e3},"none":null}`

func TestLines(t *testing.T) {
	const head = `{"device":"станция1","kind":"telemetry","position":17,"cursor":"k3f9q2-17","received":"2026-11-22T12:00:00.123Z","time":"2026-11-22T11:59:59.007Z",`
	for _, test := range []struct {
		name   string
		spec   Spec
		kind   signalbox.EntryKind
		body   string
		change func(*Message)
		want   string
	}{
		{"telemetry", Spec{}, signalbox.EntryTelemetry, oneObject, nil, head + `"object":` + oneObject + `}`},
		{"line breaks", Spec{}, signalbox.EntryTelemetry, "{\n\"a\":\r\n1}", nil, head + `"object":{ "a":  1}}`},
		{"redelivered", Spec{}, signalbox.EntryTelemetry, `{}`, func(m *Message) { m.Redelivered = true }, head + `"object":{},"redelivered":true}`},
		{"played", Spec{}, signalbox.EntryTelemetry, `{}`, func(m *Message) { m.Replay = "r1" }, head + `"object":{},"replay":{"id":"r1","hub":"h1"}}`},
		{"numbered", Spec{Sequence: true}, signalbox.EntryTelemetry, `{}`, nil, head + `"object":{},"seq":1,"run":"0badcafe"}`},
		{"fields", Spec{Fields: []string{"deep.x", "temp", "gone"}}, signalbox.EntryTelemetry, oneObject, nil, head + `"object":{"deep.x":1e3,"temp":25.80}}`},
		{"none of the fields", Spec{Fields: []string{"gone"}}, signalbox.EntryTelemetry, oneObject, nil, ""},
		{"presence", Spec{}, signalbox.EntryPresence, `{"presence":"online"}`, nil, strings.Replace(head, "telemetry", "presence", 1) + `"presence":{"presence":"online"}}`},
		{"command", Spec{}, signalbox.EntryCommand, `{"id":"1"}`, nil, strings.Replace(head, "telemetry", "command", 1) + `"command":{"id":"1"}}`},
		{"alert", Spec{}, signalbox.EntryAlert, `{"alert":"x"}`, nil, strings.Replace(head, "telemetry", "alert", 1) + `"object":{"alert":"x"}}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, reason, ok := encodeOne(t, test.spec, test.kind, test.body, test.change)
			if !ok || reason != "" {
				if test.want != "" || reason != "" {
					t.Fatalf("left out: %s", reason)
				}
				return
			}
			if string(m.Body) != test.want {
				t.Errorf("got  %s\nwant %s", m.Body, test.want)
			}
			if !json.Valid(m.Body) || !json.Valid(m.Data) || m.Cursor != "k3f9q2-17" || !strings.Contains(test.want, string(m.Data)) {
				t.Errorf("data %s, cursor %s", m.Data, m.Cursor)
			}
		})
	}
}

func TestTemplates(t *testing.T) {
	for _, test := range []struct{ name, template, want string }{
		{"who", "{device} {type} {kind}", "станция1 box telemetry"},
		{"when", "{received} {time} {received_ms} {time_ms}", "2026-11-22T12:00:00.123Z 2026-11-22T11:59:59.007Z 1795348800123 1795348799007"},
		{"where", "{position}/{cursor}", "17/k3f9q2-17"},
		{"object", "{object}", oneObject},
		{"fields as spelt", "{field.temp}|{field.text}|{field.deep.x}|{field.none}|{field.gone}", `25.80|a"b|1e3||`},
		{"fields as JSON", "{field.temp.json}|{field.text.json}|{field.gone.json}", `25.80|"a\"b"|null`},
		{"braces", "{{{device}}} {{}}", "{станция1} {}"},
		{"marks", "{redelivered}{replay}", "false"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, reason, ok := encodeOne(t, Spec{Format: FormatTemplate, Template: test.template}, signalbox.EntryTelemetry, oneObject, nil)
			if !ok || reason != "" || string(m.Body) != test.want {
				t.Errorf("got %q (%s), want %q", m.Body, reason, test.want)
			}
		})
	}
}

func TestUnfit(t *testing.T) {
	mqtt := func(topic string) Spec { return Spec{To: "mqtt://host", Topic: topic} }
	for _, test := range []struct {
		name  string
		spec  Spec
		body  string
		topic string // empty: a reason is expected
	}{
		{"topic", mqtt("a/{device}/{field.x}"), `{"x":"b c"}`, "a/станция1/b c"},
		{"constant topic", mqtt("a/b"), `{}`, "a/b"},
		{"slash", mqtt("a/{field.x}"), `{"x":"b/c"}`, ""},
		{"plus", mqtt("a/{field.x}"), `{"x":"+"}`, ""},
		{"NUL", mqtt("a/{field.x}"), `{"x":"\u0000"}`, ""},
		{"missing", mqtt("a/{field.x}"), `{}`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, reason, ok := encodeOne(t, test.spec, signalbox.EntryTelemetry, test.body, nil)
			if !ok || (reason == "") != (test.topic != "") || reason == "" && m.Topic != test.topic {
				t.Errorf("got %q, reason %q", m.Topic, reason)
			}
		})
	}
}

func TestLineBreaks(t *testing.T) {
	for to, want := range map[string]string{"tcp://host:1": `a  b|"a\r\nb"`, "udp://host:1": "a\r\nb|" + `"a\r\nb"`} {
		m, reason, ok := encodeOne(t, Spec{To: to, Format: FormatTemplate, Template: "{field.x}|{field.x.json}"}, signalbox.EntryTelemetry, `{"x":"a\r\nb"}`, nil)
		if !ok || reason != "" || string(m.Body) != want {
			t.Errorf("over %s got %q (%s), want %q", to, m.Body, reason, want)
		}
	}
}

func TestViewerFrame(t *testing.T) {
	spec := Spec{Format: FormatViewer, Field: "temp"}
	m, _, ok := encodeOne(t, spec, signalbox.EntryTelemetry, oneObject, nil)
	local := time.Date(2026, 11, 22, 11, 59, 59, 0, time.UTC).Local().Format(viewerLayout)
	if want := `{"state": "OK", "type": "new_data", "response": {"time": "` + local + `", "temp": "25.80"}}`; !ok || string(m.Body) != want {
		t.Errorf("got %s, want %s", m.Body, want)
	}
	for _, body := range []string{`{}`, `{"temp":null}`} {
		if _, _, ok := encodeOne(t, spec, signalbox.EntryTelemetry, body, nil); ok {
			t.Errorf("%s is not left out", body)
		}
	}
}

func TestAsRedelivered(t *testing.T) {
	for _, test := range []struct{ format, body, want string }{
		{FormatJSON, `{"object":{"a":1}}`, `{"object":{"a":1},"redelivered":true}`},
		{FormatJSON, `{"object":{"a":1},"redelivered":true}`, `{"object":{"a":1},"redelivered":true}`},
		{FormatJSON, `{"object":{"a":1,"redelivered":true}}`, `{"object":{"a":1,"redelivered":true},"redelivered":true}`},
		{FormatTemplate, `{x}`, `{x}`},
	} {
		if got := asRedelivered(test.format, []byte(test.body)); string(got) != test.want {
			t.Errorf("%s becomes %s, want %s", test.body, got, test.want)
		}
	}
}
