package wire

import (
	"strings"
	"testing"
	"time"

	"signalbox"
)

func TestReadTelemetry(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 20) + "1" + strings.Repeat("}", 20)
	for _, tt := range []struct {
		name, body string
		want       Telemetry
		marked     bool // it has a mark of its power-up
		code       string
		seq        uint64 // of the fault
	}{
		{name: "plain", body: `{"t":1}`},
		{name: "numbered", body: `{"seq":7,"t":1}`, want: Telemetry{Seq: 7}},
		{name: "marked", body: `{"seq":7,"boot":"a"}`, want: Telemetry{Seq: 7}, marked: true},
		{name: "a mark alone", body: `{"boot":"a"}`},
		{name: "an empty mark", body: `{"seq":7,"boot":""}`, want: Telemetry{Seq: 7}},
		{name: "a mark that is no text", body: `{"seq":7,"boot":1}`, want: Telemetry{Seq: 7}},
		{name: "timed", body: `{"ts":1700000000000}`, want: Telemetry{TimeMicros: 1_700_000_000_000_000}},
		{name: "not timed yet", body: `{"ts":null}`},
		{name: "no UTF-8", body: "{\"a\":\"\xff\"}", code: FaultUTF8},
		{name: "no object", body: `[1]`, code: FaultNotObject},
		{name: "too deep", body: deep, code: FaultTooDeep},
		{name: "no number", body: `{"seq":"x"}`, code: FaultSeq},
		{name: "zero", body: `{"seq":0}`, code: FaultSeq},
		{name: "no time", body: `{"seq":7,"ts":"noon"}`, want: Telemetry{Seq: 7}, code: FaultTime, seq: 7},
		{name: "replayed", body: `{"seq":7,"replay":{"hub":"b"}}`, want: Telemetry{Seq: 7}, code: FaultReplayed, seq: 7},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, fault := ReadTelemetry([]byte(tt.body), Limits{})
			if (got.Boot>>63 == 1) != tt.marked || got.Boot != 0 && !tt.marked {
				t.Errorf("the mark is %x", got.Boot)
			}
			got.Boot = 0
			if got != tt.want {
				t.Errorf("it says %+v, want %+v", got, tt.want)
			}
			switch {
			case (fault == nil) != (tt.code == ""):
				t.Errorf("the fault is %v, want %q", fault, tt.code)
			case fault != nil && (fault.Code != tt.code || fault.Seq != tt.seq || fault.Error() == ""):
				t.Errorf("the fault is %+v, want %s of %d", fault, tt.code, tt.seq)
			}
		})
	}
}

func TestBareNumber(t *testing.T) {
	for payload, want := range map[string]string{
		"25.8": "25.8", " -1e3\r\n": "-1e3", "0": "0",
		"": "", "+1": "", "01": "", ".5": "", "1 2": "", "25 °C": "", "NaN": "", `"1"`: "", "-": "",
	} {
		number, ok := BareNumber([]byte(payload))
		if ok != (want != "") || ok && string(number) != want {
			t.Errorf("%q gave %q, %v; want %q", payload, number, ok, want)
		}
		if ok && string(AppendNumber(nil, number)) != `{"value":`+want+`}` {
			t.Errorf("%q is the telemetry %s", payload, AppendNumber(nil, number))
		}
	}
}

func TestReadAnswer(t *testing.T) {
	for body, want := range map[string]struct {
		id, code  string
		ok        bool
		value, is string
	}{
		`{"type":"ack","id":"c1"}`:                  {id: "c1", ok: true},
		`{"id":"c1","ok":true,"value":{"a":1}}`:     {id: "c1", ok: true, value: `{"a":1}`},
		`{"id":"c1","ok":false,"error":"st\u0075"}`: {id: "c1", is: "stu"},
		`{"id":"c1","error":"stuck"}`:               {id: "c1", is: "stuck"},
		`{"id":1}`:                                  {code: FaultID},
		`{}`:                                        {code: FaultID},
		`c1`:                                        {code: FaultNotObject},
		"{\"id\":\"\xff\"}":                         {code: FaultNotObject},
	} {
		var f Frame
		id, fault := ReadAnswer([]byte(body), Limits{}, &f)
		if fault != nil || want.code != "" {
			if fault == nil || fault.Code != want.code {
				t.Errorf("%s gave %v, want %q", body, fault, want.code)
			}
			continue
		}
		ok, value, text := f.Outcome()
		if id != want.id || ok != want.ok || string(value) != want.value || text != want.is {
			t.Errorf("%s is %s %v %s %q, want %+v", body, id, ok, value, text, want)
		}
	}
}

func TestSplitNative(t *testing.T) {
	for topic, want := range map[string][2]string{
		"signalbox/esp01/telemetry": {"esp01", "telemetry"},
		"signalbox/esp01/a/b":       {"esp01", "a/b"},
		"signalbox/esp01":           {},
		"signalbox":                 {},
		"signalboxes/a/b":           {},
		"a/signalbox/b":             {},
	} {
		device, rest, ok := SplitNative(topic)
		if ok != (want != [2]string{}) || ok && (device != want[0] || rest != want[1]) {
			t.Errorf("%s is %s, %s, %v", topic, device, rest, ok)
		}
	}
}

func TestAppendCommand(t *testing.T) {
	value := "9\"0"
	for want, c := range map[string]signalbox.Command{
		`{"type":"command","id":"c","command":"x"}`:                         {ID: "c", Name: "x"},
		`{"type":"command","id":"c","command":"x","value":"9\"0"}`:          {ID: "c", Name: "x", Value: &value},
		`{"type":"command","id":"c","command":"x","expires":1700000000000}`: {ID: "c", Name: "x", ExpiresAt: time.UnixMilli(1_700_000_000_000)},
	} {
		got, err := AppendCommand([]byte("-"), &c)
		if err != nil || string(got) != "-"+want {
			t.Errorf("it is %s, %v; want %s", got, err, want)
		}
	}
}

// FuzzReadTelemetry: whatever comes is taken or refused, and what is taken is an object.
func FuzzReadTelemetry(f *testing.F) {
	for _, s := range []string{`{"seq":1,"boot":"a","ts":1}`, `1`, `{`, `{"replay":{"hub":"b"}}`, `{"id":"x"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		says, fault := ReadTelemetry(body, Limits{})
		var frame Frame
		if fault == nil && (Scan(body, Limits{}, &frame) != nil || says.Boot != 0 && says.Seq == 0) {
			t.Errorf("%q was taken as %+v", body, says)
		}
		if id, fault := ReadAnswer(body, Limits{}, &frame); fault != nil && id != "" {
			t.Errorf("%q is wrong and has the id %q", body, id)
		}
		if number, ok := BareNumber(body); ok && Scan(AppendNumber(nil, number), Limits{}, &frame) != nil {
			t.Errorf("%q is a number and no telemetry", body)
		}
	})
}
