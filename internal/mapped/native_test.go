package mapped_test

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/ingest"
	"signalbox/internal/mapped"
	"signalbox/internal/session"
)

// native is a Map that takes the native tree of its broker.
func native(n mapped.Native) mapped.Config { return mapped.Config{Native: &n} }

func TestNativeTelemetry(t *testing.T) {
	h := open(t, t.TempDir(), native(mapped.Native{}))
	for i, tt := range []struct {
		name, payload, want string // want: the state, empty for dropped
	}{
		{"an object", `{"t":1}`, `{"t":1}`},
		{"a bare number", " -2.50\n", `{"value":-2.50}`},
		{"reserved keys", `{"seq":3,"ts":1700000000000,"t":1}`, `{"seq":3,"ts":1700000000000,"t":1}`},
		{"a clock that is not set", `{"ts":null,"t":1}`, `{"ts":null,"t":1}`},
		{"nothing", "", ""},
		{"a word", "on", ""},
		{"an array", "[1]", ""},
		{"no number of JSON", "+1", ""},
		{"a wrong seq", `{"seq":0,"t":1}`, ""},
		{"a wrong time", `{"ts":"yesterday","t":1}`, ""},
		{"replayed", `{"replay":{"id":"a","hub":"b"},"t":1}`, ""},
		{"bad UTF-8", "{\"t\":\"\xff\"}", ""},
		{"too long", `{"t":"` + strings.Repeat("x", mapped.DefaultMaxBody) + `"}`, ""},
		{"too deep", strings.Repeat(`{"a":`, 20) + "1" + strings.Repeat("}", 20), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			device := "esp" + strconv.Itoa(i)
			h.add(t, device)
			if tt.want == "" {
				h.want(t, "signalbox/"+device+"/telemetry", tt.payload, mapped.Dropped)
				h.wantState(t, device, signalbox.Offline, "")
				return
			}
			h.want(t, "signalbox/"+device+"/telemetry", tt.payload, mapped.Taken)
			h.wantState(t, device, signalbox.Online, tt.want)
		})
	}
}

// TestNativeTopics: which topics are the native protocol, and of whom.
func TestNativeTopics(t *testing.T) {
	cfg := native(mapped.Native{})
	cfg.Mappings = []mapped.Mapping{{Filter: "+/+/telemetry", Device: "{2}"}, {Filter: "#", Device: "rest"}}
	h := open(t, t.TempDir(), cfg)
	h.add(t, "esp01")
	for topic, want := range map[string]mapped.Verdict{
		"signalbox/esp01/telemetry":   mapped.Taken,
		"signalbox/nobody/telemetry":  mapped.Dropped,
		"signalbox/nobody/ack":        mapped.Dropped,
		"signalbox/esp01/command":     mapped.None,
		"signalbox/esp01/error":       mapped.None,
		"signalbox/esp01/telemetry/x": mapped.None,
		"signalbox/esp01":             mapped.None,
		"signalbox/":                  mapped.None,
		"other/esp01/telemetry":       mapped.Taken,
		"a":                           mapped.Taken,
	} {
		h.want(t, topic, `{"t":1}`, want)
	}
	if s := h.m.Stats(); s.Unknown.Load() != 2 {
		t.Errorf("%d messages of unknown devices, want 2", s.Unknown.Load())
	}
}

// TestNativeOff: without Config.Native the tree is nothing to the mappings.
func TestNativeOff(t *testing.T) {
	h := open(t, t.TempDir(), mapped.Config{Mappings: []mapped.Mapping{{Filter: "#", Device: "rest"}}})
	h.add(t, "esp01")
	h.want(t, "signalbox/esp01/telemetry", `{"t":1}`, mapped.None)
	h.m.Afresh()
}

func TestNativeStatus(t *testing.T) {
	h := open(t, t.TempDir(), native(mapped.Native{Silence: time.Minute}))
	d := h.add(t, "esp01")
	const topic = "signalbox/esp01/status"
	late := time.Now().Add(2 * time.Minute)

	h.want(t, topic, "offline", mapped.Dropped) // it is
	h.want(t, topic, "sleeping", mapped.Dropped)
	h.want(t, topic, "online", mapped.Taken)
	h.want(t, topic, " online\n", mapped.Dropped)
	s := h.sessions.Get(d.ID)
	if s == nil || s.Protocol != signalbox.ProtocolMQTT || s.Speaks() != signalbox.ProtocolMQTT || !s.Listening() {
		t.Fatalf("the session is %+v", s)
	}
	h.m.Sweep(late)
	h.wantState(t, "esp01", signalbox.Online, "") // its will says when it is not
	h.want(t, topic, "offline", mapped.Taken)
	h.wantState(t, "esp01", signalbox.Offline, "")

	h.want(t, "signalbox/esp01/telemetry", "1", mapped.Taken) // no status: silence tells
	h.m.Sweep(late)
	h.wantState(t, "esp01", signalbox.Offline, `{"value":1}`)

	h.want(t, topic, "online", mapped.Taken)
	h.m.Afresh() // the broker may not have kept the status
	h.m.Sweep(late)
	h.wantState(t, "esp01", signalbox.Offline, `{"value":1}`)
	want := []string{
		"presence online", "presence offline reported", "presence online", "telemetry {\"value\":1}", "presence offline silent",
		"presence online", "presence offline silent",
	}
	for i, e := range want {
		want[i] = strings.TrimPrefix(e, "presence ")
	}
	got := h.entries(t, d.ID)
	if !slices.Equal(got, want) {
		t.Errorf("the log has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestNativeRetained: a retained status is of now, all else that is retained is the past.
func TestNativeRetained(t *testing.T) {
	h := open(t, t.TempDir(), native(mapped.Native{}))
	d := h.add(t, "esp01")
	retained := func(level, payload string, want mapped.Verdict) {
		t.Helper()
		if got := h.m.Take(&mapped.Taking{Topic: "signalbox/esp01/" + level, Payload: []byte(payload), Link: h.link, Retained: true}); got != want {
			t.Fatalf("%s %s gave the verdict %d, want %d", level, payload, got, want)
		}
	}
	retained("telemetry", `{"t":1}`, mapped.Taken)
	retained("telemetry", `{"t":2}`, mapped.Dropped)
	retained("ack", `{"id":"x"}`, mapped.Dropped)
	h.wantState(t, "esp01", signalbox.Offline, `{"t":1}`)
	retained("status", "online", mapped.Taken)
	h.wantState(t, "esp01", signalbox.Online, `{"t":1}`)
	if h.commands.count() != 1 || len(h.commands.answered()) != 0 {
		t.Errorf("%d times online, answers %q", h.commands.count(), h.commands.answered())
	}
	retained("status", "offline", mapped.Taken)
	h.wantState(t, "esp01", signalbox.Offline, `{"t":1}`)
	if h.sessions.Get(d.ID) != nil {
		t.Error("a session is left")
	}
}

// TestNativeNumbers: a number with a mark of its power-up comes once, through a restart of the
// session too; without one it is data.
func TestNativeNumbers(t *testing.T) {
	h := open(t, t.TempDir(), native(mapped.Native{}))
	d := h.add(t, "esp01")
	const topic = "signalbox/esp01/telemetry"
	h.want(t, topic, `{"boot":"a","seq":1}`, mapped.Taken)
	h.want(t, topic, `{"boot":"a","seq":2}`, mapped.Taken)
	again := mapped.Taking{Topic: topic, Payload: []byte(`{"boot":"a","seq":2}`), Link: h.link}
	if v := h.m.Take(&again); v != mapped.Dropped || again.Position == 0 || again.Position != h.log.Head() {
		t.Errorf("a repeated number gave %d at %d, want it dropped at that of the first, %d", v, again.Position, h.log.Head())
	}
	h.want(t, "signalbox/esp01/status", "offline", mapped.Taken)
	h.want(t, topic, `{"boot":"a","seq":2}`, mapped.Dropped)
	h.wantState(t, "esp01", signalbox.Offline, `{"boot":"a","seq":2}`) // an old message makes nobody online
	h.want(t, topic, `{"boot":"b","seq":1}`, mapped.Taken)
	h.want(t, topic, `{"seq":1}`, mapped.Taken)
	h.want(t, topic, `{"seq":1}`, mapped.Taken)
	if v := h.m.Take(&mapped.Taking{Topic: topic, Payload: []byte(`{"boot":"b","seq":1}`), Link: h.link, Unordered: true}); v != mapped.Taken {
		t.Errorf("where order is not kept a number was compared: %d", v)
	}
	if n := len(h.entries(t, d.ID)); n != 9 {
		t.Errorf("%d entries, want 9", n)
	}
}

func TestNativeCommands(t *testing.T) {
	h := open(t, t.TempDir(), native(mapped.Native{}))
	d := h.add(t, "esp01")
	h.want(t, "signalbox/esp01/ack", `{"id":"c0"}`, mapped.Taken) // an answer makes nobody online
	h.wantState(t, "esp01", signalbox.Offline, "")
	h.want(t, "signalbox/esp01/status", "online", mapped.Taken)
	value := "90"
	c := &signalbox.Command{ID: "c1", Name: "servo1", Value: &value, ExpiresAt: time.UnixMilli(1_800_000_000_000)}
	s := h.sessions.Get(d.ID)
	if err := s.Fits(c); err != nil {
		t.Error(err)
	}
	if err := s.Conn.Deliver(c); err != nil {
		t.Fatal(err)
	}
	if got, want := h.link.all(), `signalbox/esp01/command {"type":"command","id":"c1","command":"servo1","value":"90","expires":1800000000000}`; got != want {
		t.Errorf("published\n%s\nwant\n%s", got, want)
	}
	topic, payload, qos, retain, err := h.m.Command("esp01", c)
	if topic != "signalbox/esp01/command" || len(payload) == 0 || qos != 1 || retain || err != nil {
		t.Errorf("the command would be %s %s with %d, %v, %v", topic, payload, qos, retain, err)
	}
	h.want(t, "signalbox/esp01/ack", `{"type":"ack","id":"c1"}`, mapped.Taken)
	h.want(t, "signalbox/esp01/result", `{"id":"c1","ok":true,"value":{"a":1}}`, mapped.Taken)
	h.want(t, "signalbox/esp01/result", `{"id":"c2","error":"stuck"}`, mapped.Taken)
	h.want(t, "signalbox/esp01/result", `{"ok":true}`, mapped.Dropped)
	h.want(t, "signalbox/esp01/ack", `c1`, mapped.Dropped)
	answer := mapped.Taking{Topic: "signalbox/esp01/ack", Payload: []byte(`{"id":"c3"}`), Link: h.link}
	if v := h.m.Take(&answer); v != mapped.Taken || answer.Position != h.log.Head() {
		t.Errorf("the answer gave %d at %d, want it taken at %d", v, answer.Position, h.log.Head())
	}
	want := []string{"ack 1 c0", "ack 1 c1", `result 1 c1 true {"a":1} `, "result 1 c2 false  stuck", "ack 1 c3"}
	if got := h.commands.answered(); !slices.Equal(got, want) {
		t.Errorf("the command road heard %q, want %q", got, want)
	}
	h.link.err = errAway
	if err := s.Conn.Deliver(c); err == nil {
		t.Error("a command went out though the broker is away")
	}
}

// TestNativeBesideMapping: a device that comes by a mapping and natively is one; once it has
// spoken natively it is commanded so.
func TestNativeBesideMapping(t *testing.T) {
	cfg := native(mapped.Native{})
	cfg.Mappings = []mapped.Mapping{{Filter: "s/+", Device: "{1}", Command: &mapped.Template{Topic: "c/{device}"}}}
	h := open(t, t.TempDir(), cfg)
	d := h.add(t, "esp01")
	h.want(t, "s/esp01", `{"t":1}`, mapped.Taken)
	s := h.sessions.Get(d.ID)
	if s.Speaks() != signalbox.ProtocolMapped {
		t.Errorf("it speaks %d", s.Speaks())
	}
	h.want(t, "signalbox/esp01/telemetry", `{"t":2}`, mapped.Taken)
	h.want(t, "s/esp01", `{"t":3}`, mapped.Taken)
	if h.sessions.Get(d.ID) != s || s.Speaks() != signalbox.ProtocolMQTT {
		t.Errorf("it speaks %d with another session", s.Speaks())
	}
	if err := s.Conn.Deliver(&signalbox.Command{ID: "c1", Name: "x"}); err != nil || !strings.HasPrefix(h.link.all(), "signalbox/esp01/command ") {
		t.Errorf("%v, published %s", err, h.link.all())
	}
}

// TestNativeOwnConnection: of a device that is connected here too the messages are part of that.
func TestNativeOwnConnection(t *testing.T) {
	h := open(t, t.TempDir(), native(mapped.Native{}))
	d := h.add(t, "esp01")
	s := &session.Session{ID: h.sessions.NextID(), Device: d.ID, Protocol: signalbox.ProtocolV2, Conn: nobody{}}
	if _, v := h.road.Connect(d, s, netip.Addr{}); v != ingest.Stored {
		t.Fatal(v)
	}
	h.want(t, "signalbox/esp01/telemetry", `{"t":1}`, mapped.Taken)
	h.want(t, "signalbox/esp01/status", "online", mapped.Dropped)
	h.want(t, "signalbox/esp01/status", "offline", mapped.Dropped)
	h.want(t, "signalbox/esp01/ack", `{"id":"c1"}`, mapped.Taken)
	if h.sessions.Get(d.ID) != s {
		t.Error("its session is another one")
	}
	h.wantState(t, "esp01", signalbox.Online, `{"t":1}`)
}

func TestNativeRegister(t *testing.T) {
	h := open(t, t.TempDir(), native(mapped.Native{Register: true, Type: "board"}))
	h.run(t)
	h.want(t, "signalbox/esp09/status", "", mapped.Dropped) // a retained one was cleared
	h.want(t, "signalbox/esp09/result", `{"id":"x"}`, mapped.Dropped)
	if h.m.Stats().Pending.Load() != 0 {
		t.Error("an answer made a device")
	}
	h.want(t, "signalbox/esp09/telemetry", `{"t":1}`, mapped.Dropped)
	until(t, "the device is pending", func() bool { return h.devices.Find("esp09") != nil })
	d := h.devices.Find("esp09")
	if v := d.View(); !v.Disabled || v.Type != "board" || v.Presence != signalbox.Offline {
		t.Errorf("it is %+v", v)
	}
	h.want(t, "signalbox/esp09/status", "online", mapped.Dropped)
	h.want(t, "signalbox/esp09/ack", `{"id":"x"}`, mapped.Dropped)
	if len(h.commands.answered()) != 0 {
		t.Error("a pending device answered")
	}
}

func TestNativeConfig(t *testing.T) {
	for name, n := range map[string]mapped.Native{
		"a wrong type":    {Type: "a b/c"},
		"a short silence": {Silence: time.Millisecond},
	} {
		if err := n.Check(); signalbox.KindOf(err) != signalbox.KindInvalid {
			t.Errorf("%s gave %v", name, err)
		}
		if _, err := mapped.New(native(n), mapped.Parts{}); err == nil {
			t.Errorf("%s: a Map was made", name)
		}
	}
}

// TestNativeRestart: a message that the broker delivers again to a hub which has stored it, and
// died before it could say so, is known.
func TestNativeRestart(t *testing.T) {
	dir := t.TempDir()
	const topic, reading = "signalbox/esp01/telemetry", `{"boot":"a","seq":1}`
	t.Run("before", func(t *testing.T) {
		h := open(t, dir, native(mapped.Native{}))
		d := h.add(t, "esp01")
		h.want(t, topic, reading, mapped.Taken)
		h.entries(t, d.ID) // waits for the commit
	})
	t.Run("after", func(t *testing.T) {
		h := open(t, dir, native(mapped.Native{}))
		h.want(t, topic, reading, mapped.Dropped)
		h.wantState(t, "esp01", signalbox.Offline, reading)
		h.want(t, topic, `{"boot":"a","seq":2}`, mapped.Taken)
		h.wantState(t, "esp01", signalbox.Online, `{"boot":"a","seq":2}`)
	})
}
