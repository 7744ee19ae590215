package conformance_test

import (
	"time"

	"signalbox/internal/wire/packet"
)

// sessionChecks are about what outlives a connection (3.1.2.4, 3.1.2.11.2, 4.1).
func sessionChecks() []check {
	return []check{
		{"session resumed", "3.1.2-4 3.1.2-5 3.1.3-2 3.2.0-1 3.2.2-2 4.1.0-1 4.5.0-1", "3.1.2-5 3.1.2-23 3.1.3-2 3.2.0-1 3.2.2-3 4.5.0-1", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v, lasting), login(t, v)
			c.subscribe(topic+"/#", 2)
			c.leave()
			from.publish(topic+"/1", "one", 1)
			from.publish(topic+"/2", "two", 2)
			from.publish(topic+"/1", "three", 1)
			stranger := login(t, v, lasting)
			if stranger.connack.SessionPresent {
				t.Error("another identifier has the session")
			}
			stranger.leave()
			back := login(t, v, named(c.id), lasting)
			if !back.connack.SessionPresent {
				t.Fatal("the session is not present")
			}
			back.take(topic+"/1", "one", 1)
			back.take(topic+"/2", "two", 2)
			back.take(topic+"/1", "three", 1)
			from.publish(topic+"/live", "four", 1)
			back.take(topic+"/live", "four", 1)
		}},
		{"no session to resume", "3.2.2-3 3.1.2-4", "3.1.2-6 3.2.2-3", func(t trial, v packet.Version) {
			c := login(t, v, lasting)
			if c.connack.SessionPresent {
				t.Error("a session is present that nobody has made")
			}
			c.subscribe(unique(), 1)
			c.leave()
		}},
		{"clean session", "3.1.2-6 3.1.4-3 3.2.2-1", "3.1.2-4 3.1.4-4 3.2.2-2", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v, lasting), login(t, v)
			c.subscribe(topic, 1)
			c.leave()
			from.publish(topic, "old", 1)
			fresh := login(t, v, named(c.id), lasting, clean)
			if fresh.connack.SessionPresent {
				t.Error("a session is present after a clean start")
			}
			from.publish(topic, "new", 1)
			fresh.nothing(from, 1)
			fresh.leave()
			again := login(t, v, named(c.id), lasting)
			if want := v == packet.V5; again.connack.SessionPresent != want {
				t.Errorf("after a clean start that lasts session present is %t, want %t", !want, want)
			}
		}},
		{"session ends with its connection", "3.1.2-6", "3.1.2-23 4.1.0-2", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v), login(t, v)
			c.subscribe(topic, 1)
			c.leave()
			from.publish(topic, "lost", 1)
			back := login(t, v, named(c.id), lasting)
			if back.connack.SessionPresent {
				t.Error("the session is present")
			}
			back.nothing(from, 1)
		}},
		{"state is kept while connected", "4.1.0-1 4.1.0-2", "4.1.0-1", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v, expiring(1)), login(t, v)
			c.subscribe(topic, 1)
			wait(1500 * time.Millisecond)
			from.publish(topic, "there", 1)
			c.take(topic, "there", 1)
		}},
		{"session expires", "", "4.1.0-2 3.1.2-23", func(t trial, v packet.Version) {
			c := login(t, v, expiring(1))
			c.leave()
			wait(2500 * time.Millisecond)
			if login(t, v, named(c.id), lasting).connack.SessionPresent {
				t.Error("a session of one second is present after two and a half")
			}
		}},
		{"session expiry changed by DISCONNECT", "", "4.1.0-2", func(t trial, v packet.Version) {
			expiry := func(n uint32) *packet.Properties {
				p := &packet.Properties{SessionExpiry: n}
				p.Set(packet.SessionExpiry)
				return p
			}
			c := login(t, v, lasting)
			c.leaveWith(packet.Success, expiry(0))
			if login(t, v, named(c.id), expiring(0)).connack.SessionPresent {
				t.Error("the session is present although DISCONNECT has set its expiry to 0")
			}
			longer := login(t, v, expiring(1))
			longer.leaveWith(packet.Success, expiry(600))
			wait(2 * time.Second)
			if !login(t, v, named(longer.id), lasting).connack.SessionPresent {
				t.Error("the session is gone although DISCONNECT has lengthened it")
			}
			none := login(t, v, expiring(0))
			none.send(packet.AppendDisconnect(nil, v, packet.Success, expiry(600)))
			none.ended(packet.ProtocolError)
		}},
	}
}

// keepAliveChecks are about 3.1.2.10 and PINGREQ.
func keepAliveChecks() []check {
	return []check{
		{"keep alive passed", "3.1.2-24 3.1.2-8", "3.1.2-22 3.2.2-22", func(t trial, v packet.Version) {
			topic := unique()
			watcher := login(t, v)
			watcher.subscribe(topic, 0)
			begin := time.Now()
			c := login(t, v, keepAlive(2), will(topic, "silent", 0, false))
			if p := &c.connack.Properties; p.Has(packet.ServerKeepAlive) && p.ServerKeepAlive != 2 {
				t.Fatalf("the server wants a keep alive of %d", p.ServerKeepAlive)
			}
			c.ended(packet.KeepAliveTimeout)
			if d := time.Since(begin); d < 2900*time.Millisecond {
				t.Errorf("the server closed after %v, want 3 s", d)
			}
			watcher.message(topic, "silent", 0)
		}},
		{"PINGREQ", "3.12.4-1 3.1.2-24", "3.12.4-1 3.1.2-22", func(t trial, v packet.Version) {
			c := login(t, v, keepAlive(6)) // there is time enough for each ping
			for range 4 {
				wait(2500 * time.Millisecond)
				c.ping()
			}
			silent := login(t, v, keepAlive(0))
			wait(2 * time.Second)
			silent.ping()
		}},
		{"messages to a client do not keep it alive", "3.1.2-24", "3.1.2-22", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v, keepAlive(1)), login(t, v)
			c.subscribe(topic, 0)
			enough, done := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(done)
				for begin := time.Now(); time.Since(begin) < patience; wait(100 * time.Millisecond) {
					select {
					case <-enough:
						return
					default:
					}
					if _, err := from.conn.Write(packet.AppendPublish(nil, v, message(topic, "x", 0))); err != nil {
						return
					}
				}
			}()
			c.ended(packet.KeepAliveTimeout)
			select {
			case <-done:
				t.Error("the server closed only when no more messages came")
			default:
			}
			close(enough)
			<-done
		}},
	}
}

// willChecks are about wills (3.1.2.5, 3.1.3.2).
func willChecks() []check {
	return []check{
		{"will published", "3.1.2-8 3.1.2-16 3.1.2-10", "3.1.2-7 3.1.2-8 3.1.2-14 3.1.2-10", func(t trial, v packet.Version) {
			topic := unique()
			watcher := login(t, v)
			watcher.subscribe(topic, 2)
			for qos := range uint8(3) {
				c := login(t, v, will(topic, "gone", qos, false))
				c.drop()
				watcher.take(topic, "gone", qos)
				back := login(t, v, named(c.id))
				back.drop() // the new connection has no will
			}
			late := login(t, v)
			late.subscribe(topic, 1)
			late.nothing(watcher, 0)
			watcher.nothing(watcher, 1)
		}},
		{"will retained", "3.1.2-17", "3.1.2-15", func(t trial, v packet.Version) {
			topic := unique()
			watcher := login(t, v)
			watcher.subscribe(topic, 1)
			login(t, v, will(topic, "gone", 1, true)).drop()
			watcher.take(topic, "gone", 1)
			late := login(t, v)
			late.subscribe(topic, 1)
			if p := late.take(topic, "gone", 1); !p.Retain {
				t.Error("the retained will comes without its flag")
			}
			watcher.publish(topic, "", 1, retained)
		}},
		{"no will after DISCONNECT", "3.1.2-10 3.14.4-3 3.1.2-12", "3.1.2-10 3.14.4-3", func(t trial, v packet.Version) {
			topic := unique()
			watcher := login(t, v)
			watcher.subscribe(topic, 1)
			login(t, v, will(topic, "gone", 1, true)).leave()
			login(t, v).drop()
			login(t, v).leave()
			watcher.nothing(watcher, 1)
		}},
		{"will after DISCONNECT with 0x04", "", "3.1.2-8", func(t trial, v packet.Version) {
			topic := unique()
			watcher := login(t, v)
			watcher.subscribe(topic, 1)
			login(t, v, will(topic, "gone", 1, false)).leaveWith(packet.DisconnectWithWill, nil)
			watcher.take(topic, "gone", 1)
		}},
		{"will after a protocol error", "3.1.2-8", "3.1.2-8", func(t trial, v packet.Version) {
			topic := unique()
			watcher := login(t, v)
			watcher.subscribe(topic, 1)
			c := login(t, v, will(topic, "gone", 1, false))
			c.send([]byte{0, 0})
			c.ended(packet.MalformedPacket, packet.ProtocolError)
			watcher.take(topic, "gone", 1)
		}},
		{"will when taken over", "3.1.2-8", "3.1.2-8", func(t trial, v packet.Version) {
			topic := unique()
			watcher := login(t, v)
			watcher.subscribe(topic, 1)
			c := login(t, v, will(topic, "gone", 1, false))
			newer := login(t, v, named(c.id))
			c.ended(packet.SessionTakenOver)
			watcher.take(topic, "gone", 1)
			newer.leave()
		}},
		{"will delayed", "", "3.1.2-8 3.1.2-7", func(t trial, v packet.Version) {
			topic := unique()
			watcher := login(t, v)
			watcher.subscribe(topic, 1)
			begin := time.Now()
			login(t, v, lasting, will(topic, "gone", 1, false), willDelay(1)).drop()
			watcher.take(topic, "gone", 1)
			if d := time.Since(begin); d < 900*time.Millisecond {
				t.Errorf("the will came after %v, want 1 s", d)
			}
		}},
		{"delayed will comes when the session ends", "", "3.1.2-8", func(t trial, v packet.Version) {
			topic := unique()
			watcher := login(t, v)
			watcher.subscribe(topic, 1)
			login(t, v, expiring(1), will(topic, "gone", 1, false), willDelay(600)).drop()
			watcher.take(topic, "gone", 1)
			login(t, v, expiring(0), will(topic, "at once", 1, false), willDelay(600)).drop()
			watcher.take(topic, "at once", 1)
			c := login(t, v, lasting, will(topic, "discarded", 1, false), willDelay(600))
			c.drop()
			login(t, v, named(c.id), clean, expiring(0), clean).leave()
			watcher.take(topic, "discarded", 1)
		}},
		{"delayed will ends with a new connection", "", "3.1.3-9", func(t trial, v packet.Version) {
			topic := unique()
			watcher := login(t, v)
			watcher.subscribe(topic, 1)
			c := login(t, v, lasting, will(topic, "gone", 1, false), willDelay(1))
			newer := login(t, v, named(c.id), lasting)
			c.ended(packet.SessionTakenOver)
			wait(2 * time.Second)
			watcher.nothing(watcher, 1)
			newer.leave()
		}},
		{"properties of a will", "", "3.1.3-10 3.3.2-4 3.3.2-15 3.3.2-16 3.3.2-17 3.3.2-20", func(t trial, v packet.Version) {
			topic := unique()
			watcher := login(t, v)
			watcher.subscribe(topic, 1)
			login(t, v, will(topic, "gone", 1, false), func(c *packet.Connect, _ *packet.Properties) { fill(&c.WillProperties) }).drop()
			expectFilled(t, watcher.take(topic, "gone", 1))
		}},
	}
}

// wait lets time pass where time itself is what is tested: keep alive, expiry, delay.
func wait(d time.Duration) { <-time.After(d) }
