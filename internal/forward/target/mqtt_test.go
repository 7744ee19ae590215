package target

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/forward"
	"signalbox/internal/remote/mosquittotest"
)

func brokerSpec(address string) *forward.Spec {
	return &forward.Spec{Name: "f", To: "mqtt://" + address, Timeout: patience, QoS: 1}
}

func openMQTT(t *testing.T, spec *forward.Spec) (forward.Target, forward.Sink, *settlements) {
	t.Helper()
	target := mqttTargetOf(t, spec)
	a := newSettlements()
	return target, reopen(t, target, a), a
}

func mqttTargetOf(t *testing.T, spec *forward.Spec) forward.Target {
	t.Helper()
	target, err := newMQTT(spec, newGuard(spec, true, nil), quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = target.Close() })
	return target
}

// flushed waits until all is settled.
func flushed(t *testing.T, sink forward.Sink) {
	t.Helper()
	if err := sink.Flush(within(t)); err != nil {
		t.Fatal(err)
	}
}

// subscriber is Debian's mosquitto_sub.
type subscriber struct{ lines chan string }

// subscribe, with QoS 1, gives lines of topic, QoS, retain, user properties and payload, with bars between.
func subscribe(t *testing.T, b *mosquittotest.Broker, arguments ...string) *subscriber {
	t.Helper()
	_, port, _ := strings.Cut(b.Address, ":")
	before := strings.Count(b.Log(), "Sending SUBACK")
	command := exec.CommandContext(t.Context(), "mosquitto_sub",
		append([]string{"-V", "5", "-h", "127.0.0.1", "-p", port, "-q", "1", "-t", "#", "-F", "%t|%q|%r|%P|%p"}, arguments...)...)
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	s := &subscriber{lines: make(chan string, 1<<14)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			s.lines <- scanner.Text()
		}
	}()
	t.Cleanup(func() {
		_ = command.Process.Kill()
		<-done
		_ = command.Wait()
	})
	awaitLog(t, b, "Sending SUBACK", before+1)
	return s
}

// awaitLog waits until the broker's log holds a text so many times.
func awaitLog(t *testing.T, b *mosquittotest.Broker, text string, times int) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for ctx := within(t); strings.Count(b.Log(), text) < times; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the broker's log does not hold %q %d times:\n%s", text, times, b.Log())
		}
	}
}

func (s *subscriber) next(t *testing.T) string {
	t.Helper()
	select {
	case line := <-s.lines:
		return line
	case <-time.After(patience):
		t.Fatal("nothing arrives")
		return ""
	}
}

func manyDevices(n, devices int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i % devices
	}
	return out
}

// unlimited is a broker that drops nothing which a subscriber is slow to take.
func unlimited(t *testing.T) *mosquittotest.Broker {
	t.Helper()
	return mosquittotest.Start(t, mosquittotest.Options{Lines: []string{"max_queued_messages 0"}})
}

// TestMQTTMosquitto publishes with each version and quality of service.
func TestMQTTMosquitto(t *testing.T) {
	b := unlimited(t)
	for _, version := range []string{"5.0", "3.1.1"} {
		for qos := range uint8(3) {
			t.Run(fmt.Sprint(version, " QoS ", qos), func(t *testing.T) {
				sub := subscribe(t, b)
				spec := brokerSpec(b.Address)
				spec.Version, spec.QoS = version, qos
				_, sink, a := openMQTT(t, spec)
				const n = 1500 // several windows
				all := telemetry(1, manyDevices(n, 7)...)
				all[3].Redelivered, all[4].Replay = true, "r1"
				for from := 0; from < n; from += 500 {
					if err := sink.Send(within(t), all[from:from+500]); err != nil {
						t.Fatal(err)
					}
				}
				flushed(t, sink)
				if a.get() != n {
					t.Fatalf("settled %d", a.get())
				}
				for i := range n {
					user := ""
					if version == "5.0" {
						user = fmt.Sprintf("cursor:e-%d", i+1)
						if i == 3 {
							user += " redelivered:true"
						}
						if i == 4 {
							user += " replay:r1"
						}
					}
					want := fmt.Sprintf("out/d%d|%d|0|%s|%s", i%7, min(qos, 1), user, all[i].Body)
					if got := sub.next(t); got != want {
						t.Fatalf("got %s, want %s", got, want)
					}
				}
				closeSink(t, sink)
			})
		}
	}
}

// TestMQTTMosquittoKilled kills the broker midway; everything arrives in the end.
func TestMQTTMosquittoKilled(t *testing.T) {
	for _, version := range []string{"5.0", "3.1.1"} {
		for qos := range uint8(3) {
			t.Run(fmt.Sprint(version, " QoS ", qos), func(t *testing.T) {
				b := unlimited(t)
				spec := brokerSpec(b.Address)
				spec.Version, spec.QoS = version, qos
				target, sink, a := openMQTT(t, spec)
				all := telemetry(1, manyDevices(2000, 5)...)
				if err := sink.Send(within(t), all[:1000]); err != nil {
					t.Fatal(err)
				}
				b.Kill()
				if err := awaitBroken(t, sink); err == nil {
					t.Fatal("no reason")
				}
				if err := sink.Send(within(t), all[1000:]); err == nil {
					t.Fatal("a dead broker takes messages")
				}
				closeSink(t, sink)
				if _, err := target.Open(within(t), a.settled); err == nil || !strings.Contains(err.Error(), "refused") {
					t.Fatalf("a dead broker: %v", err)
				}
				from := int(a.get())
				b.Restart()
				sub := subscribe(t, b)
				sink = reopen(t, target, a)
				if err := sink.Send(within(t), all[from:]); err != nil {
					t.Fatal(err)
				}
				flushed(t, sink)
				for i := from; i < len(all); i++ {
					if got := sub.next(t); !strings.HasSuffix(got, "|"+string(all[i].Body)) {
						t.Fatalf("got %s, want %s", got, all[i].Body)
					}
				}
				if a.get() != 2000 {
					t.Errorf("settled %d", a.get())
				}
			})
		}
	}
}

// TestMQTTMosquittoRefuses has a broker that lets only some topics be published to.
func TestMQTTMosquittoRefuses(t *testing.T) {
	for _, qos := range []uint8{1, 2} {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			list := filepath.Join(t.TempDir(), "acl")
			if err := os.WriteFile(list, []byte("topic read #\ntopic write out/d1\ntopic write out/d2\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			b := mosquittotest.Start(t, mosquittotest.Options{Lines: []string{"acl_file " + list}})
			sub := subscribe(t, b)
			spec := brokerSpec(b.Address)
			spec.QoS = qos
			target, sink, a := openMQTT(t, spec)
			all := telemetry(1, 1, 2, 3, 1, 2, 3, 1, 2)
			var dead []int
			for from := 0; ; {
				err := sink.Send(within(t), all[from:])
				if err == nil {
					err = sink.Flush(within(t))
				}
				if err == nil {
					break
				}
				refused, is := errors.AsType[*forward.Refused](err)
				if !is || !refused.Permanent || refused.Status != 0x87 || !strings.Contains(refused.Reason, "not authorized") {
					t.Fatalf("got %v", err)
				}
				if a.get() != refused.Position-1 && int(a.get()) != from-1 && refused.Position-1 != signalPosition(uint64(from)) {
					t.Errorf("%d is refused while %d is settled", refused.Position, a.get())
				}
				closeSink(t, sink)
				dead = append(dead, int(refused.Position))
				from = int(refused.Position)
				sink = reopen(t, target, a)
			}
			if !slices.Equal(dead, []int{3, 6}) || a.get() != 8 {
				t.Errorf("dead letters %v, settled %d", dead, a.get())
			}
			closeSink(t, sink)
			seen := map[string]bool{}
			for _, want := range []int{1, 2, 4, 5, 7, 8} {
				got := sub.next(t)
				for seen[payloadOf(got)] { // an answer that was late: it came twice
					got = sub.next(t)
				}
				seen[payloadOf(got)] = true
				if payloadOf(got) != string(all[want-1].Body) {
					t.Errorf("got %s, want message %d", got, want)
				}
			}
		})
	}
}

func payloadOf(line string) string { return line[strings.LastIndexByte(line, '|')+1:] }

// TestMQTTMosquittoJoins holds credentials, TLS, retained messages and client identifiers.
func TestMQTTMosquittoJoins(t *testing.T) {
	ca, cert, key := mosquittotest.Certificates(t, t.TempDir())
	b := mosquittotest.Start(t, mosquittotest.Options{Users: map[string]string{"hub": "open sesame"}, Cert: cert, Key: key})
	good := forward.Spec{
		Name: "станция", To: "mqtts://" + b.Address, Timeout: patience, QoS: 1, Retain: true, Username: "hub",
		TLS: forward.TLS{CA: ca}, Secrets: forward.Secrets{Password: "open sesame"},
	}
	for _, version := range []string{"5.0", "3.1.1"} {
		tests := []struct {
			name   string
			change func(*forward.Spec)
			words  string // of the error; empty: it joins
		}{
			{"good", func(*forward.Spec) {}, ""},
			{"client identifier", func(s *forward.Spec) { s.ClientID = "my-own" }, ""},
			{"wrong password", func(s *forward.Spec) { s.Secrets.Password = "close sesame" }, "the broker refused the connection: "},
			{"nobody", func(s *forward.Spec) { s.Username, s.Secrets.Password = "", "" }, "the broker refused the connection: "},
			{"an unknown authority", func(s *forward.Spec) { s.TLS = forward.TLS{} }, "certificate"},
			{"no TLS", func(s *forward.Spec) { s.To = "mqtt://" + b.Address }, "the broker"},
		}
		for _, test := range tests {
			t.Run(version+" "+test.name, func(t *testing.T) {
				spec := good
				spec.Version = version
				test.change(&spec)
				target := mqttTargetOf(t, &spec)
				a := newSettlements()
				sink, err := target.Open(within(t), a.settled)
				if test.words != "" {
					if err == nil || !strings.Contains(err.Error(), test.words) || strings.Contains(err.Error(), "sesame") {
						t.Fatalf("got %v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if err := sink.Send(within(t), telemetry(1, 1)); err != nil {
					t.Fatal(err)
				}
				flushed(t, sink)
				closeSink(t, sink)
				want := "as signalbox-станция-"
				if spec.ClientID != "" {
					want = "as " + spec.ClientID
				}
				awaitLog(t, b, want, 1)
				sub := subscribe(t, b, "--cafile", ca, "-u", "hub", "-P", "open sesame")
				if got := sub.next(t); !strings.HasPrefix(got, "out/d1|1|1|") {
					t.Errorf("got %s", got)
				}
			})
		}
	}
}

func TestMQTTSpec(t *testing.T) {
	tests := []struct {
		name  string
		spec  forward.Spec
		words string
	}{
		{"a path", forward.Spec{To: "mqtt://127.0.0.1:1883/topic"}, "more than host and port"},
		{"version", forward.Spec{To: "mqtt://127.0.0.1:1883", Version: "3.1"}, "5.0 and 3.1.1 are possible"},
		{"QoS", forward.Spec{To: "mqtt://127.0.0.1:1883", QoS: 3}, "0, 1 and 2 are possible"},
		{"password alone", forward.Spec{To: "mqtt://127.0.0.1:1883", Version: "3.1.1", Secrets: forward.Secrets{Password: "p"}}, "set username"},
	}
	for _, test := range tests {
		_, err := newMQTT(&test.spec, newGuard(&test.spec, true, nil), quiet())
		if signalbox.KindOf(err) != signalbox.KindInvalid || !errors.Is(err, forward.ErrTarget) || !strings.Contains(err.Error(), test.words) {
			t.Errorf("%s: got %v", test.name, err)
		}
	}
}

// TestMQTTHangs has a listener that accepts and says nothing.
func TestMQTTHangs(t *testing.T) {
	for _, version := range []string{"5.0", "3.1.1"} {
		t.Run(version, func(t *testing.T) {
			s := serve(t)
			spec := brokerSpec(s.Addr().String())
			spec.Version, spec.Timeout = version, 200*time.Millisecond
			target := mqttTargetOf(t, spec)
			if _, err := target.Open(within(t), newSettlements().settled); err == nil || !strings.Contains(err.Error(), "did not answer within 200ms") {
				t.Errorf("got %v", err)
			}
			spec.Timeout = patience
			target = mqttTargetOf(t, spec)
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if _, err := target.Open(ctx, newSettlements().settled); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestMQTTGuard sets a broker as somebody does who may not reach this computer.
func TestMQTTGuard(t *testing.T) {
	s := serve(t)
	_, port, _ := strings.Cut(s.Addr().String(), ":")
	spec := brokerSpec("localhost:" + port)
	target, err := newMQTT(spec, newGuard(spec, false, nil), quiet())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := target.Open(within(t), newSettlements().settled); !errors.Is(err, forward.ErrTarget) || signalbox.KindOf(err) != signalbox.KindForbidden {
		t.Errorf("got %v", err)
	}
}
