package remote

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/ingest"
	"signalbox/internal/mapped"
	"signalbox/internal/registry"
	"signalbox/internal/remote/mosquittotest"
	"signalbox/internal/session"
	"signalbox/internal/store"
)

// noCommands is the command road of a hub whose commands are delivered by the test.
type noCommands struct{}

func (noCommands) Online(*session.Session)                                        {}
func (noCommands) Ack(*session.Session, string)                                   {}
func (noCommands) Result(*session.Session, string, bool, json.RawMessage, string) {}
func (noCommands) Watching(signalbox.DeviceID) bool                               { return false }
func (noCommands) Telemetry(*signalbox.Entry)                                     {}

// TestWholeRoad: the original sensor on a site's own broker becomes a device of the hub, and a
// plug there hears a command. All parts are real.
func TestWholeRoad(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var parts sync.WaitGroup
	st, err := store.Open(ctx, store.Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		parts.Wait()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	log, err := history.Open(ctx, history.Config{}, st)
	if err != nil {
		t.Fatal(err)
	}
	devices := registry.New(st, nil)
	if err := devices.Load(ctx, log); err != nil {
		t.Fatal(err)
	}
	sessions := session.New()
	road := ingest.New(ingest.Config{}, log, devices, sessions, noCommands{})
	cfg := Config{
		Name: "site", URL: "mqtt://" + b.Address, QoS: 1,
		Topics: []mapped.Mapping{
			{Filter: "Environ/Temperature", Device: "env01", Field: "temp", Format: mapped.FormatNumber},
			{Filter: "stat/plug/RESULT", Device: "plug", Command: &mapped.Template{Topic: "cmnd/{device}/{command}", Payload: "{value}", QoS: 1}},
		},
	}
	topics, err := mapped.New(mapped.Config{Mappings: cfg.Topics}, mapped.Parts{Devices: devices, Sessions: sessions, Road: road, Commands: noCommands{}})
	if err != nil {
		t.Fatal(err)
	}
	link, err := New(cfg, Parts{Taker: topics, Log: log, Identity: "test"})
	if err != nil {
		t.Fatal(err)
	}
	for _, run := range []func(context.Context) error{
		func(ctx context.Context) error { return log.Run(ctx, time.Second) },
		topics.Run, link.Run,
	} {
		parts.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	if err := topics.Prepare(ctx); err != nil {
		t.Fatal(err)
	}
	out := newOutsider(t, b, "", "")
	sensor := devices.Find("env01")
	eventually(t, "the sensor's reading is its state", func() bool {
		out.publish("Environ/Temperature", "25.8 °C", 0)
		return strings.Contains(string(sensor.StateView().Telemetry), `25.8`)
	})
	if got := string(sensor.StateView().Telemetry); got != `{"temp":25.8}` {
		t.Errorf("state %s", got)
	}

	heard := out.hear("cmnd/#")
	out.publish("stat/plug/RESULT", `{"POWER":"OFF"}`, 1)
	plug := devices.Find("plug")
	eventually(t, "the plug is online", func() bool { return sessions.Get(plug.ID) != nil })
	value := "ON"
	if err := sessions.Get(plug.ID).Conn.Deliver(&signalbox.Command{Device: "plug", Name: "POWER", Value: &value}); err != nil {
		t.Fatal(err)
	}
	if got := next(t, heard); got != "cmnd/plug/POWER ON" {
		t.Errorf("heard %q", got)
	}
	eventually(t, "acknowledged", func() bool { return link.stats.Acked.Load() > 0 })
}

// TestManyMessages: more than the receive maximum, in order, each once.
func TestManyMessages(t *testing.T) {
	for _, v := range versions() {
		t.Run(string(v), func(t *testing.T) {
			b := mosquittotest.Start(t, mosquittotest.Options{Lines: []string{"max_inflight_messages 0", "max_queued_messages 0"}})
			cfg := config(b, v)
			cfg.ReceiveMaximum = 16
			h := newHub(t, cfg).run().join().joined(b, 1)
			out := newOutsider(t, b, "", "")
			const n = 2000
			for i := range n {
				out.Publish("Environ/Temperature", 1, false, fmt.Sprint(i))
			}
			got := h.has(n)
			for i := range n {
				if got[i] != fmt.Sprintf("Environ/Temperature %d", i) {
					t.Fatalf("number %d is %q", i, got[i])
				}
			}
			h.acked(n)
		})
	}
}
