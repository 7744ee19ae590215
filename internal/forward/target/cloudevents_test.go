package target

import (
	"encoding/json"
	"maps"
	"net/url"
	"reflect"
	"testing"

	"signalbox/internal/forward"
)

func TestCloudEvent(t *testing.T) {
	message := forward.Message{
		Position: 42, Device: 7, Name: "станция 1\"", Kind: "telemetry", Cursor: "9c1f-42",
		TimeMicros: 1_732_190_000_123_456, ReceivedMicros: 1_732_190_001_000_000,
	}
	plain := map[string]any{
		"specversion": "1.0", "id": "9c1f-42", "source": "/signalbox/ab", "type": "io.signalbox.telemetry", "subject": "станция 1\"",
		"time": "2024-11-21T11:53:20.123Z", "received": "2024-11-21T11:53:21.000Z", "sequence": "00000000000000000042",
		"datacontenttype": "application/json", "data": map[string]any{"temp": 15.0},
	}
	with := func(more map[string]any) map[string]any {
		all := maps.Clone(plain)
		for k, v := range more {
			if v == nil {
				delete(all, k)
			} else {
				all[k] = v
			}
		}
		return all
	}
	tests := []struct {
		name        string
		data        string
		redelivered bool
		replay      string
		want        map[string]any
	}{
		{"telemetry", `{"temp":15.0}`, false, "", plain},
		{"redelivered", `{"temp":15.0}`, true, "", with(map[string]any{"redelivered": true})},
		{"replay", `{"temp":15.0}`, false, "r1", with(map[string]any{"replay": "r1", "id": "9c1f-42-r1"})},
		{"no data", ``, false, "", with(map[string]any{"data": nil, "datacontenttype": nil})},
		{"no JSON", `t=1 "x"`, false, "", with(map[string]any{"data": `t=1 "x"`, "datacontenttype": "text/plain"})},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := message
			m.Replay = test.replay
			e := newEvent(&m, "/signalbox/ab", test.redelivered)
			var got map[string]any
			text := e.structured(nil, []byte(test.data))
			if err := json.Unmarshal(text, &got); err != nil {
				t.Fatalf("%v: %s", err, text)
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got  %v\nwant %v", got, test.want)
			}
			headers := map[string]string{}
			e.binary(func(name, value string) { headers[name] = value })
			if subject, err := url.PathUnescape(headers["Ce-Subject"]); err != nil || subject != m.Name {
				t.Errorf("subject %q is %q, %v", headers["Ce-Subject"], subject, err)
			}
			if headers["Ce-Id"] != test.want["id"] || (headers["Ce-Redelivered"] == "true") != test.redelivered {
				t.Errorf("headers %v", headers)
			}
		})
	}
}

// TestSequence holds that texts are ordered as positions are.
func TestSequence(t *testing.T) {
	before := ""
	for _, p := range []uint64{0, 1, 9, 10, 99, 1 << 40, 1<<64 - 1} {
		e := newEvent(&forward.Message{Position: signalPosition(p)}, "/s", false)
		if e.sequence <= before {
			t.Errorf("%s does not follow %s", e.sequence, before)
		}
		before = e.sequence
	}
}
