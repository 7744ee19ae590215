package target

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"signalbox"
	"signalbox/internal/forward"
	"signalbox/internal/remote/mosquittotest"
	"signalbox/internal/wire/packet"
)

// fake is a broker that a test plays.
type fake struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

// next reads a packet; nil when the client has gone.
func (f *fake) next() *packet.Packet {
	var b []byte
	for {
		c, err := f.r.ReadByte()
		if err != nil {
			return nil
		}
		b = append(b, c)
		total, known, err := packet.Size(b)
		if err != nil {
			f.t.Error(err)
			return nil
		}
		if !known {
			continue
		}
		rest := make([]byte, total-len(b))
		if _, err := io.ReadFull(f.r, rest); err != nil {
			return nil
		}
		b = append(b, rest...)
		p := &packet.Packet{}
		if err := p.Decode(b, packet.V5); err != nil {
			f.t.Error(err)
			return nil
		}
		return p
	}
}

// publish reads on to the next PUBLISH.
func (f *fake) publish() *packet.Packet {
	for {
		if p := f.next(); p == nil || p.Type == packet.PUBLISH {
			return p
		}
	}
}

func (f *fake) say(b []byte) { _, _ = f.Write(b) }

func (f *fake) ack(id uint16, r packet.Reason) {
	f.say(packet.AppendAck(nil, packet.V5, packet.PUBACK, id, r, nil))
}

// play is a broker for one connection after another.
func play(t *testing.T, connack func(*packet.Properties), plays ...func(*fake)) string {
	t.Helper()
	s := serve(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, p := range plays {
			c, err := s.Accept()
			if err != nil {
				return
			}
			f := &fake{t, c, bufio.NewReader(c)}
			if hello := f.next(); hello == nil || hello.Type != packet.CONNECT || !hello.Connect.Clean {
				t.Errorf("it says %v", hello)
			}
			var properties packet.Properties
			if connack != nil {
				connack(&properties)
			}
			f.say(packet.AppendConnack(nil, packet.V5, false, packet.Success, &properties))
			p(f)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = s.Close()
		<-done
	})
	return s.Addr().String()
}

// drain takes what comes until the client goes.
func drain(f *fake) {
	for f.next() != nil {
	}
}

// TestMQTTAcknowledgements has a broker that acknowledges the last first, and goes.
func TestMQTTAcknowledgements(t *testing.T) {
	var first, second []string
	address := play(t, nil, func(f *fake) {
		var ids []uint16
		for range 5 {
			p := f.publish()
			first = append(first, string(p.Payload))
			ids = append(ids, p.ID)
		}
		f.ack(ids[0], packet.NoMatchingSubscribers)
		for _, i := range []int{4, 3, 4, 0, 2} { // not the second; two of them twice
			f.ack(ids[i], packet.Success)
		}
		f.ack(999, packet.Success)
	}, func(f *fake) {
		for range 2 {
			p := f.publish()
			second = append(second, string(p.Payload))
			f.ack(p.ID, packet.Success)
		}
		drain(f)
	})
	target, sink, a := openMQTT(t, brokerSpec(address))
	all := telemetry(1, 1, 2, 3, 1, 2)
	if err := sink.Send(within(t), all); err != nil {
		t.Logf("the broker was faster: %v", err)
	}
	if err := awaitBroken(t, sink); !strings.Contains(err.Error(), "the broker closed the connection") {
		t.Errorf("it says %v", err)
	}
	closeSink(t, sink)
	if a.get() != 1 {
		t.Fatalf("settled %d", a.get())
	}
	sink = reopen(t, target, a)
	more := append(all[1:], telemetry(6, 3)...)
	if err := sink.Send(within(t), more); err != nil {
		t.Fatal(err)
	}
	flushed(t, sink)
	closeSink(t, sink)
	if a.get() != 6 || len(first) != 5 || !slices.Equal(second, []string{string(all[1].Body), string(more[4].Body)}) {
		t.Errorf("settled %d, then came %q", a.get(), second)
	}
}

// TestMQTTWindow holds that a broker is never given more than it wants at a time.
func TestMQTTWindow(t *testing.T) {
	const want = 3
	address := play(t, func(p *packet.Properties) {
		p.ReceiveMaximum = want
		p.Set(packet.ReceiveMaximum)
	}, func(f *fake) {
		for range 20 {
			var ids []uint16
			for range want {
				p := f.publish()
				if p == nil {
					return
				}
				ids = append(ids, p.ID)
			}
			if err := f.SetReadDeadline(time.Now().Add(5 * time.Millisecond)); err != nil {
				f.t.Error(err)
			}
			if b, err := f.r.Peek(1); err == nil && packet.Type(b[0]>>4) == packet.PUBLISH {
				f.t.Error("there is more than it wants")
			}
			if err := f.SetReadDeadline(time.Time{}); err != nil {
				f.t.Error(err)
			}
			for _, id := range ids {
				f.ack(id, packet.Success)
			}
		}
		drain(f)
	})
	_, sink, a := openMQTT(t, brokerSpec(address))
	if err := sink.Send(within(t), telemetry(1, manyDevices(20*want, 4)...)); err != nil {
		t.Fatal(err)
	}
	flushed(t, sink)
	if a.get() != 20*want {
		t.Errorf("settled %d", a.get())
	}
	closeSink(t, sink)
}

// TestMQTTRefusals has brokers that do not take the second of three messages.
func TestMQTTRefusals(t *testing.T) {
	answer := func(reason packet.Reason) func(*fake) {
		return func(f *fake) {
			for i := range 3 {
				p := f.publish()
				if p == nil {
					return
				}
				if i == 1 {
					f.ack(p.ID, reason)
				} else {
					f.ack(p.ID, packet.Success)
				}
			}
			drain(f)
		}
	}
	small := func(p *packet.Properties) {
		p.MaximumPacketSize = 100
		p.Set(packet.MaximumPacketSize)
	}
	tests := []struct {
		name      string
		connack   func(*packet.Properties)
		play      func(*fake)
		change    func(*forward.Message)
		permanent bool
		status    packet.Reason
	}{
		{"quota", nil, answer(packet.QuotaExceeded), nil, false, packet.QuotaExceeded},
		{"unspecified", nil, answer(packet.UnspecifiedError), nil, false, packet.UnspecifiedError},
		{"not authorized", nil, answer(packet.NotAuthorized), nil, true, packet.NotAuthorized},
		{"payload", nil, answer(packet.PayloadFormatInvalid), nil, true, packet.PayloadFormatInvalid},
		{"topic of the message", nil, answer(0), func(m *forward.Message) { m.Topic = "out/#" }, true, packet.TopicNameInvalid},
		{"topic of the broker's own", nil, answer(0), func(m *forward.Message) { m.Topic = "$SYS/broker" }, true, packet.TopicNameInvalid},
		{"no topic", nil, answer(0), func(m *forward.Message) { m.Topic = "" }, true, packet.TopicNameInvalid},
		{"too large", small, answer(0), func(m *forward.Message) { m.Body = bytes.Repeat([]byte("x"), 90) }, true, packet.PacketTooLarge},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, sink, a := openMQTT(t, brokerSpec(play(t, test.connack, test.play)))
			all := telemetry(1, 1, 2, 3)
			if test.change != nil {
				test.change(&all[1])
			}
			err := sink.Send(within(t), all)
			if err == nil {
				err = sink.Flush(within(t))
			}
			refused, is := errors.AsType[*forward.Refused](err)
			if !is || refused.Position != 2 || refused.Permanent != test.permanent || refused.Status != int(test.status) || a.get() != 1 {
				t.Errorf("got %+v (%v), settled %d", refused, err, a.get())
			}
			if refused.Usable != (test.change != nil) { // it was never asked
				t.Errorf("the sink is of use: %v", refused.Usable)
			}
			if refused.Usable {
				unsent, is := errors.AsType[*forward.Unsent](err)
				if !is || unsent.From != 3 {
					t.Errorf("%+v cannot have left", unsent)
				}
				if err := sink.Send(within(t), all[2:]); err != nil {
					t.Error(err)
				}
				flushed(t, sink)
				if a.get() != 3 {
					t.Errorf("settled %d in the end", a.get())
				}
			}
			closeSink(t, sink)
		})
	}
}

// TestMQTTFaults has brokers that do what none should.
func TestMQTTFaults(t *testing.T) {
	after := func(b []byte) func(*fake) {
		return func(f *fake) {
			f.publish()
			f.say(b)
			drain(f)
		}
	}
	var moved packet.Properties
	moved.ReasonString = []byte("go\x07 away, topsecret")
	moved.Set(packet.ReasonString)
	tests := []struct {
		name  string
		play  func(*fake)
		words string
	}{
		{"no acknowledgement", drain, "did not acknowledge a message within 1s"},
		{"a goodbye", after(packet.AppendDisconnect(nil, packet.V5, packet.ServerShuttingDown, &moved)), `the broker ended the connection: server shutting down: "go away, ***"`},
		{"a message", after(packet.AppendPublish(nil, packet.V5, &packet.Packet{Topic: []byte("t")})), "to a client that only publishes"},
		{"a second CONNACK", after(packet.AppendConnack(nil, packet.V5, false, 0, nil)), ""},
		{"no MQTT", after([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")), "no MQTT"},
		{"a huge packet", after([]byte{0x40, 0xff, 0xff, 0xff, 0x7f}), "at most 65536"},
		{"half a packet", func(f *fake) { f.publish(); f.say([]byte{0x40, 0x02, 0x00}) }, "closed the connection"},
		{"a malformed PUBACK", after([]byte{0x40, 0x01, 0x00}), "no MQTT"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			spec := brokerSpec(play(t, nil, test.play))
			spec.Secrets.Password = "topsecret"
			target := newTarget(t, spec)
			if test.name == "no acknowledgement" {
				target = hasty(t, spec)
			}
			a := newSettlements()
			sink := reopen(t, target, a)
			if err := sink.Send(within(t), telemetry(1, 1)); err != nil {
				t.Logf("already: %v", err)
			}
			if err := awaitBroken(t, sink); !strings.Contains(err.Error(), test.words) {
				t.Errorf("it says %v", err)
			}
			if a.get() != 0 {
				t.Errorf("settled %d", a.get())
			}
			closeSink(t, sink)
		})
	}
}

// TestMQTTConnack has brokers whose first answer is strange.
func TestMQTTConnack(t *testing.T) {
	method := func(p *packet.Properties) {
		p.AuthMethod = []byte("m")
		p.Set(packet.AuthMethod)
	}
	noRetain := func(p *packet.Properties) { p.Set(packet.RetainAvailable) } // 0
	withProperties := func(change func(*packet.Properties)) []byte {
		var p packet.Properties
		change(&p)
		return packet.AppendConnack(nil, packet.V5, false, packet.Success, &p)
	}
	tests := []struct {
		name   string
		answer []byte
		words  string
	}{
		{"an old broker", []byte{0x20, 0x02, 0x00, 0x01}, "set version to 3.1.1"},
		{"an authentication", withProperties(method), "authentication that nobody asked for"},
		{"nothing retained", withProperties(noRetain), "set retain to false"},
		{"busy", packet.AppendConnack(nil, packet.V5, false, packet.ServerBusy, nil), "the broker refused the connection: server busy"},
		{"another packet", packet.AppendPing(nil, packet.PINGRESP), "unexpected"},
		{"nothing", nil, "the broker closed the connection"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := serve(t)
			done := make(chan struct{})
			go func() {
				defer close(done)
				c, err := s.Accept()
				if err != nil {
					return
				}
				f := &fake{t, c, bufio.NewReader(c)}
				f.next()
				f.say(test.answer)
				if test.answer != nil {
					drain(f)
				}
				_ = c.Close()
			}()
			spec := brokerSpec(s.Addr().String())
			spec.Retain = true
			if _, err := mqttTargetOf(t, spec).Open(within(t), newSettlements().settled); err == nil || !strings.Contains(err.Error(), test.words) {
				t.Errorf("got %v", err)
			}
			<-done
		})
	}
}

// TestMQTTNeverReads has a broker that takes nothing any more.
func TestMQTTNeverReads(t *testing.T) {
	stop := make(chan struct{})
	address := play(t, nil, func(*fake) { <-stop })
	defer close(stop)
	spec := brokerSpec(address)
	spec.QoS = 0
	sink := reopen(t, hasty(t, spec), newSettlements())
	batch := telemetry(1, manyDevices(500, 5)...)
	for i := range batch {
		batch[i].Body = bytes.Repeat([]byte("x"), 32<<10)
	}
	if err := sink.Send(within(t), batch); err == nil || !strings.Contains(err.Error(), "within 1s") {
		t.Errorf("got %v", err)
	}
	closeSink(t, sink)
}

// FuzzMQTTFromBroker gives the connection whatever a broker may send; what gets through is what
// the library's own reader takes.
func FuzzMQTTFromBroker(f *testing.F) {
	f.Add([]byte{0x20, 0x03, 0, 0, 0})
	f.Add([]byte{0x40, 0x02, 0, 1, 0xd0, 0})
	f.Add([]byte{0x50, 0x04, 0, 1, 0x87, 0})
	f.Add([]byte{0xe0, 0x00, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		ours, theirs := net.Pipe()
		go func() {
			_, _ = theirs.Write(b)
			_ = theirs.Close()
		}()
		c := newMQTTConn(ours, packet.V5, time.Second)
		for {
			if _, err := readPacket(c); err != nil {
				break
			}
		}
		_ = c.Close()
		_ = theirs.Close()
		if c.reason() == nil {
			t.Error("it does not say why it ended")
		}
	})
}

// readPacket reads as the 5.0 library does.
func readPacket(r io.Reader) (*packets.ControlPacket, error) { return packets.ReadPacket(r) }

// TestWindowIdentifiers holds that packet identifiers lead back to their messages, over and over.
func TestWindowIdentifiers(t *testing.T) {
	for _, first := range []uint64{0, 1, identifiers - 3, identifiers, 7*identifiers - 2, 1 << 40} {
		w := newWindow(maxUnderWay, func(signalbox.Position) {})
		w.first, w.end = first, first
		for i := range maxUnderWay {
			n, free := w.add(&forward.Message{Position: signalbox.Position(i)}, false)
			if !free || n != first+uint64(i) {
				t.Fatalf("number %d, room %t", n, free)
			}
		}
		for n := first; n < first+maxUnderWay; n++ {
			id := identifier(n)
			if got, under := w.number(id); id == 0 || !under || got != n {
				t.Errorf("identifier %d of message %d leads to %d, %t", id, n, got, under)
			}
		}
		for _, n := range []uint64{first + maxUnderWay, first + identifiers - 1} {
			if _, under := w.number(identifier(n)); under {
				t.Errorf("message %d is not under way", n)
			}
		}
		if _, under := w.number(0); under {
			t.Error("0 is no identifier")
		}
	}
}

// TestMQTTLeavesNothing holds that goroutines end with their sink.
func TestMQTTLeavesNothing(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{})
	for _, version := range []string{"5.0", "3.1.1"} {
		spec := brokerSpec(b.Address)
		spec.Version = version
		target := mqttTargetOf(t, spec)
		before := runtime.NumGoroutine()
		for range 10 {
			sink := reopen(t, target, newSettlements())
			if err := sink.Send(within(t), telemetry(1, 1, 2, 3)); err != nil {
				t.Fatal(err)
			}
			closeSink(t, sink) // acknowledged or not
		}
		tick := time.NewTicker(10 * time.Millisecond)
		for ctx := within(t); runtime.NumGoroutine() > before+5 && ctx.Err() == nil; {
			<-tick.C // the library's last ones end by themselves
		}
		tick.Stop()
		if now := runtime.NumGoroutine(); now > before+5 {
			t.Errorf("%s: %d goroutines, %d before", version, now, before)
		}
	}
}
