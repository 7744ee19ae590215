package remote

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/command"
	"signalbox/internal/history"
	"signalbox/internal/ingest"
	"signalbox/internal/mapped"
	"signalbox/internal/registry"
	"signalbox/internal/remote/mosquittotest"
	"signalbox/internal/session"
	"signalbox/internal/sim"
	"signalbox/internal/store"
	"signalbox/internal/wire/packet"
)

// site is a hub of real parts that has joined a broker.
type site struct {
	t        *testing.T
	log      *history.Log
	devices  *registry.Registry
	sessions *session.Table
	commands *command.Road
	topics   *mapped.Map
	link     *Link
}

// names is what the command road knows of the registry.
type names struct{ *registry.Registry }

func (n names) Find(name string) (signalbox.DeviceID, bool) {
	if d := n.Registry.Find(name); d != nil {
		return d.ID, true
	}
	return 0, false
}

func (n names) NameOf(id signalbox.DeviceID) string {
	if d := n.Get(id); d != nil {
		return d.Name
	}
	return ""
}

func (n names) Disabled(id signalbox.DeviceID) bool {
	d := n.Get(id)
	return d == nil || d.Disabled()
}

func (n names) LatestObject(id signalbox.DeviceID) []byte {
	if d := n.Get(id); d != nil {
		return d.LatestObject()
	}
	return nil
}

// newSite makes a hub that has the devices of these names, and joins it; cfg's topics are native.
func newSite(t *testing.T, b *mosquittotest.Broker, identity string, cfg Config, known ...string) *site {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var parts, roads sync.WaitGroup
	st, err := store.Open(ctx, store.Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	logCtx, stopLog := context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(func() {
		cancel()
		parts.Wait()
		stopLog()
		roads.Wait()
		must(t, st.Close())
	})
	s := &site{t: t, devices: registry.New(st, nil), sessions: session.New()}
	s.log, err = history.Open(ctx, history.Config{}, st)
	must(t, err)
	must(t, s.devices.Load(ctx, s.log))
	s.commands = command.New(command.Config{}, s.log, st, s.sessions, names{s.devices}, slog.New(slog.DiscardHandler))
	must(t, s.commands.Load(ctx))
	road := ingest.New(ingest.Config{}, s.log, s.devices, s.sessions, s.commands)
	if cfg.Native == nil {
		cfg.Native = &mapped.Native{}
	}
	s.topics, err = mapped.New(mapped.Config{Mappings: cfg.Topics, Native: cfg.Native}, mapped.Parts{
		Devices: s.devices, Sessions: s.sessions, Road: road, Commands: s.commands, Log: s.log,
	})
	must(t, err)
	s.link, err = New(cfg, Parts{Taker: s.topics, Log: s.log, Identity: identity})
	must(t, err)
	roads.Go(func() { _ = s.log.Run(logCtx, time.Second) })
	for _, name := range known {
		_, err := s.devices.Add(ctx, registry.NewDevice{Name: name, Type: "box"})
		must(t, err)
	}
	road.Begin()
	for _, run := range []func(context.Context) error{s.commands.Run, s.topics.Run, s.link.Run} {
		parts.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "subscribed", func() bool {
		return s.link.Status().OK && strings.Contains(b.Log(), "Sending SUBACK to "+s.link.cfg.ClientID)
	})
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// nativeConfig is that of a link with native topics alone.
func nativeConfig(b *mosquittotest.Broker, v Version) Config {
	cfg := config(b, v)
	cfg.Topics, cfg.Native = nil, &mapped.Native{}
	return cfg
}

// presence waits until the device is so.
func (s *site) presence(name string, want signalbox.Presence) {
	s.t.Helper()
	d := s.devices.Find(name)
	eventually(s.t, name+" is "+string(want), func() bool { return d.View().Presence == want })
}

// telemetry gives the telemetry of a device in the log.
func (s *site) telemetry(name string) (all []string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), wait)
	defer cancel()
	must(s.t, s.log.Wait(ctx, s.log.Head()))
	id := s.devices.Find(name).ID
	must(s.t, s.log.Scan(ctx, 0, func(e *signalbox.Entry) error {
		if e.Device == id && e.Kind == signalbox.EntryTelemetry {
			all = append(all, string(e.Body))
		}
		return nil
	}))
	return all
}

// ends waits for the state in which a command ends.
func (s *site) ends(id string, want signalbox.CommandState) signalbox.Command {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), wait)
	defer cancel()
	c, err := s.commands.Wait(ctx, id)
	if err != nil || c.State != want {
		s.t.Fatalf("the command is %+v, %v; want %s", c, err, want)
	}
	return c
}

// board is a device on a broker, in raw packets.
type board struct {
	t    *testing.T
	v    packet.Version
	name string
	c    net.Conn
	in   []byte
	id   uint16
}

// newBoard connects with a will, subscribes to its commands, and says that it is online.
func newBoard(t *testing.T, b *mosquittotest.Broker, name string) *board {
	t.Helper()
	return newBoardWith(t, b, name, packet.V311)
}

func newBoardWith(t *testing.T, b *mosquittotest.Broker, name string, v packet.Version) *board {
	t.Helper()
	var d net.Dialer
	c, err := d.DialContext(t.Context(), "tcp", b.Address)
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	o := &board{t: t, v: v, name: name, c: c}
	o.write(packet.AppendConnect(nil, &packet.Connect{
		Version: v, Clean: true, KeepAlive: 60, ClientID: []byte(name), HasWill: true, WillRetain: true, WillQoS: 1,
		WillTopic: []byte("signalbox/" + name + "/status"), WillPayload: []byte("offline"),
	}, nil))
	o.next(packet.CONNACK)
	o.write(packet.AppendSubscribe(nil, v, 1, []packet.Filter{{Text: []byte("signalbox/" + name + "/command"), QoS: 1}}, nil))
	o.next(packet.SUBACK)
	o.publish("status", "online", true)
	return o
}

func (o *board) write(b []byte) {
	o.t.Helper()
	must(o.t, o.c.SetWriteDeadline(time.Now().Add(wait)))
	_, err := o.c.Write(b)
	must(o.t, err)
}

// next reads packets up to one of the type. What it holds is valid until the next call.
func (o *board) next(want packet.Type) *packet.Packet {
	o.t.Helper()
	must(o.t, o.c.SetReadDeadline(time.Now().Add(wait)))
	for {
		head := make([]byte, 1, 5)
		_, err := io.ReadFull(o.c, head)
		must(o.t, err)
		total, ok := 0, false
		for !ok {
			head = head[:len(head)+1]
			_, err := io.ReadFull(o.c, head[len(head)-1:])
			must(o.t, err)
			total, ok, err = packet.Size(head)
			must(o.t, err)
		}
		o.in = append(o.in[:0], head...)
		o.in = append(o.in, make([]byte, total-len(head))...)
		_, err = io.ReadFull(o.c, o.in[len(head):])
		must(o.t, err)
		var p packet.Packet
		must(o.t, p.Decode(o.in, o.v))
		if p.Type == packet.PUBLISH && p.QoS == 1 {
			o.write(packet.AppendAck(nil, o.v, packet.PUBACK, p.ID, packet.Success, nil))
		}
		if p.Type == want {
			return &p
		}
	}
}

// publish says something on a topic of its own, with quality of service 1.
func (o *board) publish(level, payload string, retain bool) {
	o.t.Helper()
	o.id++
	o.write(packet.AppendPublish(nil, o.v, &packet.Packet{
		Type: packet.PUBLISH, QoS: 1, ID: o.id, Retain: retain, Topic: []byte("signalbox/" + o.name + "/" + level), Payload: []byte(payload),
	}))
}

// command waits for a command and gives its id and name.
func (o *board) command() (id, name string) {
	o.t.Helper()
	var f struct{ Type, ID, Command string }
	p := o.next(packet.PUBLISH)
	must(o.t, json.Unmarshal(p.Payload, &f))
	if string(p.Topic) != "signalbox/"+o.name+"/command" || f.Type != "command" {
		o.t.Fatalf("heard %s %s", p.Topic, p.Payload)
	}
	return f.ID, f.Command
}

// TestNative: a device that is connected to a site's own broker, with all that the native
// protocol has.
func TestNative(t *testing.T) {
	for _, v := range versions() {
		t.Run(string(v), func(t *testing.T) {
			b := mosquittotest.Start(t, mosquittotest.Options{})
			s := newSite(t, b, "one", nativeConfig(b, v), "esp01")
			o := newBoard(t, b, "esp01")
			s.presence("esp01", signalbox.Online)
			d := s.devices.Find("esp01")
			if got := s.sessions.Get(d.ID).Protocol; got != signalbox.ProtocolMQTT {
				t.Errorf("the session's protocol is %d", got)
			}
			o.publish("telemetry", `{"boot":"a","seq":1,"ts":1700000000000,"t":1}`, false)
			o.publish("telemetry", `{"boot":"a","seq":1,"ts":1700000000000,"t":1}`, false)
			o.publish("telemetry", `25.8`, false)
			eventually(t, "the readings are stored", func() bool { return string(d.LatestObject()) == `{"value":25.8}` })
			if got, want := s.telemetry("esp01"), []string{`{"boot":"a","seq":1,"ts":1700000000000,"t":1}`, `{"value":25.8}`}; !slices.Equal(got, want) {
				t.Errorf("stored %q, want %q", got, want)
			}

			value := "90"
			c, err := s.commands.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: "servo1", Value: &value})
			must(t, err)
			id, name := o.command()
			if id != c.ID || name != "servo1" {
				t.Errorf("heard %s %s, want %s servo1", id, name, c.ID)
			}
			o.publish("ack", `{"type":"ack","id":"`+id+`"}`, false)
			o.publish("result", `{"type":"result","id":"`+id+`","ok":true,"value":[1]}`, false)
			c = s.ends(id, signalbox.CommandSucceeded)
			if c.Protocol != signalbox.ProtocolMQTT || c.DeliveredAt.IsZero() || string(c.Result) != "[1]" {
				t.Errorf("the command is %+v", c)
			}

			_ = o.c.Close() // without DISCONNECT: its will tells
			s.presence("esp01", signalbox.Offline)
			if _, err := s.commands.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: "x"}); signalbox.CodeOf(err) != "device_offline" {
				t.Errorf("a command to a device that is away gave %v", err)
			}
			eventually(t, "all is acknowledged", func() bool { return s.link.stats.Acked.Load() >= 7 })
			if n := s.link.stats.Echoes.Load() + s.link.stats.Unmapped.Load(); n != 0 {
				t.Errorf("%d of the hub's own commands came back", n)
			}
		})
	}
}

// TestNativeResend: a command without an ack goes out again when the device is back, under its id.
func TestNativeResend(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{})
	s := newSite(t, b, "one", nativeConfig(b, V5), "esp01")
	first := newBoard(t, b, "esp01")
	s.presence("esp01", signalbox.Online)
	c, err := s.commands.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: "x", TTL: time.Minute})
	must(t, err)
	first.command()
	_ = first.c.Close()
	s.presence("esp01", signalbox.Offline)
	queued, err := s.commands.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: "y", TTL: time.Minute})
	must(t, err)
	second := newBoard(t, b, "esp01")
	for _, want := range []string{c.ID, queued.ID} {
		id, _ := second.command()
		if id != want {
			t.Fatalf("heard %s, want %s", id, want)
		}
		second.publish("result", `{"id":"`+id+`","ok":false,"error":"stuck"}`, false)
		if got := s.ends(id, signalbox.CommandFailed); got.Error != "stuck" {
			t.Errorf("the command is %+v", got)
		}
	}
}

// TestNativeSim: the simulated board, which was written for the hub's own broker.
func TestNativeSim(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{})
	s := newSite(t, b, "one", nativeConfig(b, Auto), "esp01")
	device, err := sim.NewDevice(sim.DeviceConfig{
		Name: "esp01", Secret: "any", Protocol: signalbox.ProtocolMQTT, MQTT5: true, QoS: 1, Addr: b.Address, Interval: 20 * time.Millisecond,
	})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- device.Run(ctx) }()
	s.presence("esp01", signalbox.Online)
	eventually(t, "its readings are stored", func() bool { return len(s.telemetry("esp01")) > 3 })
	value := "45"
	c, err := s.commands.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: "servo1", Value: &value})
	must(t, err)
	s.ends(c.ID, signalbox.CommandSucceeded)
	cancel()
	must(t, <-done)
}

// TestNativeMissedWill: a will that was published while the hub was away is heard of, for a
// status is retained.
func TestNativeMissedWill(t *testing.T) {
	for _, v := range versions() {
		t.Run(string(v), func(t *testing.T) {
			b := mosquittotest.Start(t, mosquittotest.Options{})
			door := newGate(t, b.Address)
			cfg := nativeConfig(b, v)
			cfg.URL = "mqtt://" + door.address
			s := newSite(t, b, "one", cfg, "esp01")
			o := newBoard(t, b, "esp01")
			s.presence("esp01", signalbox.Online)
			other := newOutsider(t, b, "", "")
			door.shut()
			eventually(t, "the hub is away", func() bool { return !s.link.Status().Connected })
			other.done(other.Publish("signalbox/esp01/status", 0, true, "offline")) // with 0 nothing is kept for the hub's session
			if s.link.Status().Connected || s.devices.Find("esp01").View().Presence != signalbox.Online {
				t.Fatal("the hub was not away")
			}
			door.open()
			s.presence("esp01", signalbox.Offline)
			o.publish("status", "online", true)
			s.presence("esp01", signalbox.Online)
		})
	}
}

// TestNativeShared: of two hubs in a group one takes a message, and both know who is online and
// can command.
func TestNativeShared(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{})
	cfg := nativeConfig(b, V5)
	cfg.Shared = "hubs"
	hubs := []*site{newSite(t, b, "one", cfg, "esp01"), newSite(t, b, "two", cfg, "esp01")}
	o := newBoard(t, b, "esp01")
	for _, s := range hubs {
		s.presence("esp01", signalbox.Online)
	}
	const n = 100
	for i := range n {
		o.publish("telemetry", fmt.Sprintf(`{"boot":"a","seq":%d}`, i+1), false)
	}
	eventually(t, "the readings are stored", func() bool {
		return hubs[0].topics.Stats().Taken.Load()+hubs[1].topics.Stats().Taken.Load() >= n+2 // and two statuses
	})
	one, two := hubs[0].telemetry("esp01"), hubs[1].telemetry("esp01")
	all := slices.Concat(one, two)
	slices.Sort(all)
	if len(slices.Compact(all)) != n || len(one)+len(two) != n || len(one) == 0 || len(two) == 0 {
		t.Errorf("%d and %d readings, want %d together, each once, and some each", len(one), len(two), n)
	}
	for i, s := range hubs {
		c, err := s.commands.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: fmt.Sprint("x", i)})
		must(t, err)
		id, _ := o.command()
		o.publish("ack", `{"id":"`+id+`"}`, false)
		o.publish("result", `{"id":"`+id+`","ok":true}`, false)
		if id != c.ID {
			t.Errorf("heard %s, want %s", id, c.ID)
		}
		s.ends(c.ID, signalbox.CommandSucceeded)
	}
	for _, s := range hubs {
		if got := s.link.stats.Echoes.Load() + s.link.stats.Unmapped.Load(); got != 0 {
			t.Errorf("%d of the hubs' own commands came back", got)
		}
	}
	_ = o.c.Close()
	for _, s := range hubs {
		s.presence("esp01", signalbox.Offline)
	}
}

// TestNativeEchoes: a mapping of all topics makes the broker send the hub's own commands back,
// where it cannot be told not to; they are nobody's telemetry.
func TestNativeEchoes(t *testing.T) {
	for _, v := range versions() {
		t.Run(string(v), func(t *testing.T) {
			b := mosquittotest.Start(t, mosquittotest.Options{})
			cfg := nativeConfig(b, v)
			cfg.Topics = []mapped.Mapping{{Filter: "#", Device: "rest", Field: "all", Format: mapped.FormatText}}
			s := newSite(t, b, "one", cfg, "esp01", "rest")
			o := newBoard(t, b, "esp01")
			s.presence("esp01", signalbox.Online)
			c, err := s.commands.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: "x"})
			must(t, err)
			id, _ := o.command()
			o.publish("result", `{"id":"`+id+`","ok":true}`, false)
			s.ends(c.ID, signalbox.CommandSucceeded)
			o.publish("telemetry", `{"t":1}`, false)
			eventually(t, "the reading is stored", func() bool { return len(s.telemetry("esp01")) == 1 })
			if v == V311 {
				eventually(t, "the echo was dropped", func() bool { return s.link.stats.Echoes.Load() == 1 })
			}
			if got := s.telemetry("rest"); len(got) != 0 {
				t.Errorf("the mapping took %q", got)
			}
		})
	}
}

// TestNativeExpiry: a 5.0 broker forgets a command when its time is over, whatever session the
// device has there.
func TestNativeExpiry(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{})
	s := newSite(t, b, "one", nativeConfig(b, V5), "esp01")
	o := newBoardWith(t, b, "esp01", packet.V5)
	s.presence("esp01", signalbox.Online)
	for _, tt := range []struct {
		request signalbox.CommandRequest
		most    uint32 // seconds
	}{
		{signalbox.CommandRequest{Device: "esp01", Name: "x", TTL: time.Hour, Timeout: time.Minute}, 3601},
		{signalbox.CommandRequest{Device: "esp01", Name: "y", Timeout: time.Minute}, 61}, // later nobody would hear of it
	} {
		_, err := s.commands.Submit(t.Context(), tt.request)
		must(t, err)
		if p := o.next(packet.PUBLISH); p.Properties.MessageExpiry > tt.most || p.Properties.MessageExpiry < tt.most-30 {
			t.Errorf("%s expires after %d s, want %d", tt.request.Name, p.Properties.MessageExpiry, tt.most)
		}
	}
	must(t, s.link.PublishUntil("signalbox/esp01/command", []byte("late"), 1, false, time.Now().Add(-time.Second)))
	eventually(t, "refused", func() bool { return s.link.stats.PublishErrors.Load() == 1 })
}

// TestAfresh: the taker hears when the broker has kept nothing.
func TestAfresh(t *testing.T) {
	for _, v := range versions() {
		t.Run(string(v), func(t *testing.T) {
			b := mosquittotest.Start(t, mosquittotest.Options{})
			h := newHub(t, config(b, v)).run().join().joined(b, 1)
			afresh := func() int {
				h.mu.Lock()
				defer h.mu.Unlock()
				return h.afresh
			}
			if got := afresh(); got != 1 {
				t.Errorf("%d times at the first connection, want once", got)
			}
			h.link.current().conn.fail(io.EOF)
			eventually(t, "joined again", func() bool { return h.link.stats.Connects.Load() == 2 })
			if got := afresh(); got != 1 {
				t.Errorf("%d times though the session was kept", got)
			}
			b.Kill()
			b.Restart()
			eventually(t, "joined again", func() bool { return h.link.stats.Connects.Load() == 3 })
			if got := afresh(); got != 2 {
				t.Errorf("%d times after the broker has forgotten all, want 2", got)
			}
		})
	}
}

// TestNativeUnseen: an unseen device waits for approval where the configuration says so.
func TestNativeUnseen(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{})
	cfg := nativeConfig(b, V5)
	cfg.Native = &mapped.Native{Register: true}
	s := newSite(t, b, "one", cfg)
	newBoard(t, b, "esp07")
	eventually(t, "the device is there", func() bool { return s.devices.Find("esp07") != nil })
	if d := s.devices.Find("esp07"); !d.Disabled() || d.View().Presence != signalbox.Offline {
		t.Errorf("the device is %+v", d.View())
	}
}

// TestBrokerAway: a broker that is away hears nothing, and the hub does not say that it did. What
// may wait goes out when the broker is back, before any other word of the device.
func TestBrokerAway(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{})
	s := newSite(t, b, "one", nativeConfig(b, V5), "esp01")
	newBoard(t, b, "esp01")
	s.presence("esp01", signalbox.Online)
	b.Kill()
	eventually(t, "the link is down", func() bool { return !s.link.Up() })
	if _, err := s.commands.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: "now"}); signalbox.KindOf(err) != signalbox.KindConflict {
		t.Errorf("a command that cannot wait: %v", err)
	}
	queued, err := s.commands.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: "later", TTL: time.Minute})
	must(t, err)
	if queued.State != signalbox.CommandQueued {
		t.Errorf("the command is %s while nothing can go out", queued.State)
	}
	b.Restart()
	board := newBoard(t, b, "esp01")
	id, _ := board.command()
	if id != queued.ID {
		t.Errorf("heard %s, want %s", id, queued.ID)
	}
}
