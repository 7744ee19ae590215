package homeassistant_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"signalbox"
	"signalbox/internal/bus"
	"signalbox/internal/history"
	"signalbox/internal/homeassistant"
	"signalbox/internal/registry"
	"signalbox/internal/store"
)

// broker keeps what was published last on each topic.
type broker struct {
	mu       sync.Mutex
	retained map[string]string
	count    int
	fail     bool
}

func (b *broker) Publish(topic string, payload []byte, qos uint8, retain bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail {
		return errors.New("away")
	}
	if qos != 1 || !retain {
		return errors.New("discovery is retained, with quality of service 1")
	}
	b.count++
	b.retained[topic] = string(payload)
	if len(payload) == 0 {
		delete(b.retained, topic)
	}
	return nil
}

func (b *broker) get(topic string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.retained[topic]
}

func (b *broker) topics() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.retained))
}

func devices(t *testing.T) *registry.Registry {
	t.Helper()
	st, err := store.Open(t.Context(), store.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	log, err := history.Open(t.Context(), history.Config{}, st)
	if err != nil {
		t.Fatal(err)
	}
	r := registry.New(st, nil)
	if err := r.Load(t.Context(), log); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestFieldsBecomeEntities(t *testing.T) {
	r := devices(t)
	dev, err := r.Add(t.Context(), registry.NewDevice{Name: "теплица", Type: "box"})
	if err != nil {
		t.Fatal(err)
	}
	low, high := 0.0, 180.0
	cfg := homeassistant.Config{Version: "1.0", MaxFields: 6, Entities: map[string]homeassistant.Entity{
		"temp": {Name: "Air", Class: "temperature", Unit: "°C"}, "relay": {Component: "switch"}, "servo1": {Component: "number", Min: &low, Max: &high}, "rssi": {Component: "hidden"},
	}}
	if err := cfg.Check(); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		var b bus.Bus
		out := &broker{retained: map[string]string{}}
		d := homeassistant.New(cfg, &b, r, out)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- d.Run(ctx) }()
		synctest.Wait()
		b.Publish(&signalbox.Entry{Position: 1, Device: dev.ID, Kind: signalbox.EntryPresence, Body: []byte(`{"presence":"online"}`)})
		b.Publish(&signalbox.Entry{Position: 2, Device: dev.ID, Kind: signalbox.EntryTelemetry, Body: []byte(
			`{"type":"telemetry","seq":4,"temp":25.8,"relay":true,"open":false,"servo1":"90","rssi":-60,"bme":{"p a":1013},"none":null,"list":[1],"k'é":"x","seventh":7}`)})
		synctest.Wait()
		if got := out.get("signalbox/теплица/presence"); got != "online" {
			t.Errorf("presence is %q", got)
		}
		want := map[string]map[string]any{
			"homeassistant/sensor/signalbox_1/temp/config": {
				"name": "Air", "state_topic": "signalbox/теплица/telemetry", "value_template": `{{ value_json["temp"] | default("") }}`, "device_class": "temperature",
				"unit_of_measurement": "°C", "state_class": "measurement", "availability_topic": "signalbox/теплица/presence", "unique_id": "signalbox_1_temp",
			},
			"homeassistant/switch/signalbox_1/relay/config": {
				"command_topic": "signalbox/теплица/command", "payload_on": `{"command":"relay","value":"true"}`, "payload_off": `{"command":"relay","value":"false"}`,
				"state_on": "true", "value_template": `{{ value_json["relay"] | default("") | string | lower }}`,
			},
			"homeassistant/binary_sensor/signalbox_1/open/config": {"payload_on": "true", "payload_off": "false"},
			"homeassistant/number/signalbox_1/servo1/config": {
				"min": 0.0, "max": 180.0, "command_template": `{"command":"servo1","value":{{ value | string | tojson }}}`,
			},
		}
		for topic, members := range want {
			var got map[string]any
			if err := json.Unmarshal([]byte(out.get(topic)), &got); err != nil {
				t.Fatalf("%s has %q: %v", topic, out.get(topic), err)
			}
			for key, value := range members {
				if got[key] != value {
					t.Errorf("%s: %s is %v, want %v", topic, key, got[key], value)
				}
			}
		}
		var rest []string
		for _, topic := range out.topics() {
			if _, ok := want[topic]; !ok {
				rest = append(rest, topic)
			}
		}
		// Names that topics of discovery do not allow have a hash; the seventh field is over the limit.
		if len(rest) != 3 || !strings.HasPrefix(rest[0], "homeassistant/sensor/signalbox_1/bmepa_") || !strings.HasPrefix(rest[1], "homeassistant/sensor/signalbox_1/k_") || rest[2] != "signalbox/теплица/presence" {
			t.Errorf("also published: %q", rest)
		}
		before := out.count
		b.Publish(&signalbox.Entry{Position: 3, Device: dev.ID, Kind: signalbox.EntryTelemetry, Body: []byte(`{"temp":26}`)})
		synctest.Wait()
		if out.count != before {
			t.Error("what is known was published again")
		}
		out.mu.Lock()
		out.fail = true
		out.mu.Unlock()
		b.Publish(&signalbox.Entry{Position: 4, Device: dev.ID, Kind: signalbox.EntryPresence, Body: []byte(`{"presence":"offline"}`)})
		synctest.Wait()
		out.mu.Lock()
		out.fail = false
		out.mu.Unlock()
		time.Sleep(2 * time.Second) // the registry of this test says that the device is offline
		synctest.Wait()
		if got := out.get("signalbox/теплица/presence"); got != "offline" {
			t.Errorf("after the broker was away presence is %q", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestTemplates holds how a field is found in the telemetry.
func TestTemplates(t *testing.T) {
	for name, tt := range map[string]struct{ body, want string }{
		"bare number": {`{"value":1}`, `{{ (value_json["value"] if value_json is mapping else value_json) | default("") }}`},
		"nested":      {`{"bme":{"t":1}}`, `{{ (value_json["bme"] | default({}))["t"] | default("") }}`},
		"text":        {`{"status":"ready"}`, `{{ value_json["status"] | default(this.state) }}`},
		"odd":         {`{"a\"b":1}`, `{{ value_json["a\"b"] | default("") }}`},
	} {
		t.Run(name, func(t *testing.T) {
			r := devices(t)
			dev, err := r.Add(t.Context(), registry.NewDevice{Name: "esp01", Type: "box"})
			if err != nil {
				t.Fatal(err)
			}
			out := &broker{retained: map[string]string{}}
			var b bus.Bus
			d := homeassistant.New(homeassistant.Config{}, &b, r, out)
			d.Hear(&signalbox.Entry{Position: 1, Device: dev.ID, Kind: signalbox.EntryTelemetry, Body: []byte(tt.body)})
			var got struct {
				Template string `json:"value_template"`
			}
			for _, topic := range out.topics() {
				if err := json.Unmarshal([]byte(out.get(topic)), &got); err != nil {
					t.Fatal(err)
				}
			}
			if got.Template != tt.want {
				t.Errorf("published %q with the template %s, want %s", out.topics(), got.Template, tt.want)
			}
		})
	}
}

func TestRemovedDevicesAreWithdrawn(t *testing.T) {
	r := devices(t)
	dev, err := r.Add(t.Context(), registry.NewDevice{Name: "esp01", Type: "box"})
	if err != nil {
		t.Fatal(err)
	}
	out := &broker{retained: map[string]string{}}
	var b bus.Bus
	d := homeassistant.New(homeassistant.Config{}, &b, r, out)
	d.Hear(&signalbox.Entry{Position: 1, Device: dev.ID, Kind: signalbox.EntryPresence, Body: []byte(`{"presence":"online"}`)})
	d.Hear(&signalbox.Entry{Position: 2, Device: dev.ID, Kind: signalbox.EntryTelemetry, Body: []byte(`{"a":1,"b":2}`)})
	if len(out.topics()) != 3 {
		t.Fatalf("published %q", out.topics())
	}
	if err := r.Remove(t.Context(), dev, nil); err != nil {
		t.Fatal(err)
	}
	d.Sweep()
	if left := out.topics(); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestCheck(t *testing.T) {
	one, two := 1.0, 2.0
	tests := []struct {
		name string
		cfg  homeassistant.Config
		want string // a part of the error
	}{
		{"nothing said", homeassistant.Config{}, ""},
		{"wildcard in the prefix", homeassistant.Config{Prefix: "a/+"}, "a/+"},
		{"native prefix", homeassistant.Config{Prefix: "signalbox/x"}, "signalbox/"},
		{"unknown component", homeassistant.Config{Entities: map[string]homeassistant.Entity{"x": {Component: "lamp"}}}, "lamp"},
		{"range", homeassistant.Config{Entities: map[string]homeassistant.Entity{"x": {Min: &two, Max: &one}}}, "not below"},
		{"step", homeassistant.Config{Entities: map[string]homeassistant.Entity{"x": {Step: new(float64)}}}, "greater than 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.cfg.Check()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("Check gives %v, want %q", err, tt.want)
			}
		})
	}
}
