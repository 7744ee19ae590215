package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/session"
)

func TestStates(t *testing.T) {
	const ack, ok, bad, wrong = "ack", "ok", "bad", "wrong device"
	tests := []struct {
		name     string
		protocol signalbox.Protocol
		events   []string
		want     signalbox.CommandState
		ignored  uint64
	}{
		{"v1 rests at sent", signalbox.ProtocolV1, nil, signalbox.CommandSent, 0},
		{"v1 cannot answer", signalbox.ProtocolV1, []string{ack, ok}, signalbox.CommandSent, 2},
		{"v2 sent", signalbox.ProtocolV2, nil, signalbox.CommandSent, 0},
		{"v2 acknowledged", signalbox.ProtocolV2, []string{ack}, signalbox.CommandDelivered, 0},
		{"v2 second ack", signalbox.ProtocolV2, []string{ack, ack}, signalbox.CommandDelivered, 1},
		{"v2 done", signalbox.ProtocolV2, []string{ack, ok}, signalbox.CommandSucceeded, 0},
		{"v2 failed", signalbox.ProtocolV2, []string{ack, bad}, signalbox.CommandFailed, 0},
		{"v2 result without ack", signalbox.ProtocolV2, []string{ok}, signalbox.CommandSucceeded, 0},
		{"v2 ack after result", signalbox.ProtocolV2, []string{ok, ack}, signalbox.CommandSucceeded, 1},
		{"v2 first result is final", signalbox.ProtocolV2, []string{bad, ok}, signalbox.CommandFailed, 1},
		{"v2 another device answers", signalbox.ProtocolV2, []string{wrong}, signalbox.CommandSent, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(t, Config{})
			s, conn := g.connect("esp01", tt.protocol)
			other, _ := g.connect("esp02", signalbox.ProtocolV2)
			c := g.submit(signalbox.CommandRequest{Name: "servo1", Value: new("90")})
			if got := conn.next(t); got.ID != c.ID || got.State != signalbox.CommandSent || *got.Value != "90" {
				t.Fatalf("delivered %+v", got)
			}
			for _, event := range tt.events {
				switch event {
				case ack:
					g.road.Ack(s, c.ID)
				case ok:
					g.road.Result(s, c.ID, true, json.RawMessage(`{"angle":90}`), "")
				case bad:
					g.road.Result(s, c.ID, false, nil, "stuck")
				case wrong:
					g.road.Ack(other, c.ID)
					g.road.Result(other, c.ID, true, nil, "")
				}
			}
			got := g.get(c.ID)
			if got.State != tt.want {
				t.Errorf("state %s; want %s", got.State, tt.want)
			}
			if ended := got.State.Ended(); ended == got.EndedAt.IsZero() || ended && got.DeliveredAt.IsZero() {
				t.Errorf("times do not fit the state: %+v", got)
			}
			switch got.State {
			case signalbox.CommandSucceeded:
				if string(got.Result) != `{"angle":90}` || got.Error != "" {
					t.Errorf("result %s, error %q", got.Result, got.Error)
				}
			case signalbox.CommandFailed:
				if got.Result != nil || got.Error != "stuck" {
					t.Errorf("result %s, error %q", got.Result, got.Error)
				}
			default:
			}
			if n := g.road.Stats().Ignored; n != tt.ignored {
				t.Errorf("%d answers ignored; want %d", n, tt.ignored)
			}
			g.durable()
			stored, err := g.store.Command(t.Context(), c.ID)
			if err != nil || stored.State != tt.want {
				t.Errorf("stored %+v, %v", stored, err)
			}
		})
	}
}

func TestResultIsKeptWithinBounds(t *testing.T) {
	g := newRig(t, Config{})
	s, conn := g.connect("esp01", signalbox.ProtocolV2)
	c := g.submit(signalbox.CommandRequest{Name: "x"})
	conn.next(t)
	value := []byte(`not json`)
	g.road.Result(s, c.ID, false, value, strings.Repeat("é", 1000)+"\xff")
	got := g.get(c.ID)
	if got.Result != nil || len(got.Error) != maxErrorLen || !strings.HasPrefix(got.Error, "éé") {
		t.Errorf("result %q, error of %d bytes", got.Result, len(got.Error))
	}
	g.durable()
}

func TestRefusals(t *testing.T) {
	g := newRig(t, Config{MaxActivePerDevice: 2}, "esp01", "off", "full")
	off, _ := g.devices.Find("off")
	g.devices.disabled[off] = true
	for range 2 {
		g.submit(signalbox.CommandRequest{Device: "full", Name: "x", TTL: time.Hour})
	}
	tests := []struct {
		name string
		req  signalbox.CommandRequest
		kind signalbox.Kind
		code string
	}{
		{"unknown device", signalbox.CommandRequest{Device: "nobody", Name: "x"}, signalbox.KindNotFound, "device_not_found"},
		{"disabled", signalbox.CommandRequest{Device: "off", Name: "x", TTL: time.Hour}, signalbox.KindConflict, "device_disabled"},
		{"offline", signalbox.CommandRequest{Device: "esp01", Name: "x"}, signalbox.KindConflict, "device_offline"},
		{"too many", signalbox.CommandRequest{Device: "full", Name: "x", TTL: time.Hour}, signalbox.KindLimited, "too_many_commands"},
		{"no name", signalbox.CommandRequest{Device: "esp01"}, signalbox.KindInvalid, "invalid_command"},
		{"long name", signalbox.CommandRequest{Device: "esp01", Name: strings.Repeat("x", 65)}, signalbox.KindInvalid, "invalid_command"},
		{"control character", signalbox.CommandRequest{Device: "esp01", Name: "a\nb"}, signalbox.KindInvalid, "invalid_command"},
		{"name not UTF-8", signalbox.CommandRequest{Device: "esp01", Name: "\xff"}, signalbox.KindInvalid, "invalid_utf8"},
		{"value not UTF-8", signalbox.CommandRequest{Device: "esp01", Name: "x", Value: new("\xff")}, signalbox.KindInvalid, "invalid_utf8"},
		{"long value", signalbox.CommandRequest{Device: "esp01", Name: "x", Value: new(strings.Repeat("x", 4097))}, signalbox.KindInvalid, "invalid_value"},
		{"negative ttl", signalbox.CommandRequest{Device: "esp01", Name: "x", TTL: -1}, signalbox.KindInvalid, "invalid_ttl"},
		{"long ttl", signalbox.CommandRequest{Device: "esp01", Name: "x", TTL: 31 * 24 * time.Hour}, signalbox.KindInvalid, "invalid_ttl"},
		{"long timeout", signalbox.CommandRequest{Device: "esp01", Name: "x", Timeout: 25 * time.Hour}, signalbox.KindInvalid, "invalid_timeout"},
		{"long key", signalbox.CommandRequest{Device: "esp01", Name: "x", IdempotencyKey: strings.Repeat("k", 129)}, signalbox.KindInvalid, "invalid_idempotency_key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := g.road.Submit(t.Context(), tt.req)
			wantCode(t, err, tt.kind, tt.code)
			if g.road.Stats().Refused[tt.code] == 0 {
				t.Error("the refusal was not counted")
			}
		})
	}
	list, err := g.road.List(t.Context(), 0, "", 100)
	if err != nil || len(list) != 2 {
		t.Errorf("%d commands stored, %v; want the 2 that were taken", len(list), err)
	}
	if replaced, err := g.road.Submit(t.Context(), signalbox.CommandRequest{Device: "full", Name: "x", TTL: time.Hour, Replace: true}); err != nil {
		t.Errorf("a full queue does not take a replacement: %v %v", replaced, err)
	}
}

func TestOfflineQueueIsSentInOrder(t *testing.T) {
	for _, protocol := range []signalbox.Protocol{signalbox.ProtocolV1, signalbox.ProtocolV2} {
		t.Run(fmt.Sprint("v", protocol), func(t *testing.T) {
			g := newRig(t, Config{})
			var want []string
			for i := range 20 {
				name := fmt.Sprintf("c%02d", i)
				c := g.submit(signalbox.CommandRequest{Name: name, TTL: time.Hour})
				if c.State != signalbox.CommandQueued || c.ExpiresAt.IsZero() {
					t.Fatalf("%+v", c)
				}
				want = append(want, name)
			}
			_, conn := g.connect("esp01", protocol)
			c := g.submit(signalbox.CommandRequest{Name: "last"})
			want = append(want, "last")
			for range want {
				conn.next(t)
			}
			if got := conn.names(); !slices.Equal(got, want) {
				t.Errorf("delivered %v; want %v", got, want)
			}
			if c.State != signalbox.CommandSent {
				t.Errorf("the last is %s", c.State)
			}
		})
	}
}

func TestUnacknowledgedIsSentAgain(t *testing.T) {
	g := newRig(t, Config{})
	s1, conn1 := g.connect("esp01", signalbox.ProtocolV2)
	a := g.submit(signalbox.CommandRequest{Name: "a"})
	b := g.submit(signalbox.CommandRequest{Name: "b"})
	conn1.next(t)
	conn1.next(t)
	g.road.Ack(s1, a.ID)
	g.road.Online(s1) // once more: nothing twice on one connection
	g.sessions.Detach(s1)
	c := g.submit(signalbox.CommandRequest{Name: "c", TTL: time.Hour})

	_, old := g.connect("esp01", signalbox.ProtocolV1) // must not get what may have been done
	if got := old.next(t); got.ID != c.ID {
		t.Errorf("delivered %s; want c", got.Name)
	}
	s3, conn3 := g.connect("esp01", signalbox.ProtocolV2)
	if got := conn3.next(t); got.ID != b.ID {
		t.Errorf("delivered %s; want b", got.Name)
	}
	g.road.Result(s3, b.ID, true, nil, "")
	d := g.submit(signalbox.CommandRequest{Name: "d"})
	if got := conn3.next(t); got.ID != d.ID {
		t.Errorf("delivered %s; want d", got.Name)
	}
	if got := conn1.names(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("the first connection got %v", got)
	}
	if got := g.get(c.ID); got.State != signalbox.CommandSent || got.Protocol != signalbox.ProtocolV1 {
		t.Errorf("c is %+v", got)
	}
}

func TestConnectionLostBetweenMarkAndWrite(t *testing.T) {
	for _, protocol := range []signalbox.Protocol{signalbox.ProtocolV1, signalbox.ProtocolV2} {
		t.Run(fmt.Sprint("v", protocol), func(t *testing.T) {
			g := newRig(t, Config{})
			s, conn := g.connect("esp01", protocol)
			conn.fail = true
			c := g.submit(signalbox.CommandRequest{Name: "x"})
			g.sessions.Detach(s)
			_, conn2 := g.connect("esp01", protocol)
			g.submit(signalbox.CommandRequest{Name: "y"})
			want := []string{"y"}
			if protocol.Answers() {
				want = []string{"x", "y"}
			}
			for range want {
				conn2.next(t)
			}
			if got := conn2.names(); !slices.Equal(got, want) {
				t.Errorf("delivered %v; want %v", got, want)
			}
			if got := g.get(c.ID); got.State != signalbox.CommandSent {
				t.Errorf("state %s", got.State)
			}
		})
	}
}

func TestNothingIsWrittenBeforeTheCommit(t *testing.T) {
	g := newRig(t, Config{})
	_, conn := g.connect("esp01", signalbox.ProtocolV2)
	g.log.hold(true)
	submitted := make(chan signalbox.Command)
	go func() {
		c, err := g.road.Submit(context.Background(), signalbox.CommandRequest{Device: "esp01", Name: "x"})
		if err != nil {
			t.Error(err)
		}
		submitted <- c
	}()
	for g.road.Stats().Submitted == 0 {
		runtime.Gosched()
	}
	g.road.dispatch()
	if got := conn.names(); len(got) != 0 {
		t.Fatalf("delivered %v before the commit", got)
	}
	g.log.hold(false)
	c := <-submitted
	if got := conn.next(t); got.ID != c.ID {
		t.Errorf("delivered %+v", got)
	}
}

func TestGivingUpBeforeTheCommitWithdraws(t *testing.T) {
	for _, online := range []bool{true, false} {
		t.Run(fmt.Sprint("online ", online), func(t *testing.T) {
			g := newRig(t, Config{})
			var conn *testConn
			if online {
				_, conn = g.connect("esp01", signalbox.ProtocolV2)
			}
			g.log.hold(true)
			err := g.giveUp(signalbox.CommandRequest{Device: "esp01", Name: "x", TTL: time.Hour})
			wantCode(t, err, signalbox.KindUnavailable, "not_committed")
			g.log.hold(false)
			if !online {
				_, conn = g.connect("esp01", signalbox.ProtocolV2)
			}
			g.submit(signalbox.CommandRequest{Name: "y"})
			conn.next(t)
			if got := conn.names(); !slices.Equal(got, []string{"y"}) {
				t.Errorf("delivered %v; want y alone", got)
			}
			list, err := g.road.List(t.Context(), 0, "", 10)
			if err != nil || len(list) != 2 || list[1].State != signalbox.CommandCanceled || !list[1].SentAt.IsZero() {
				t.Errorf("stored %+v, %v", list, err)
			}
		})
	}
}

func TestLogRefuses(t *testing.T) {
	g := newRig(t, Config{})
	queued := g.submit(signalbox.CommandRequest{Name: "queued", TTL: time.Hour})
	s, conn := g.connect("esp01", signalbox.ProtocolV2)
	conn.next(t)
	g.log.breakDown(errors.New("disk full"))
	_, err := g.road.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: "x"})
	wantCode(t, err, signalbox.KindUnavailable, "log_failing")
	g.log.breakDown(nil)

	g.log.fill(true)
	_, err = g.road.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: "x"})
	wantCode(t, err, signalbox.KindUnavailable, "log_full")
	// What the device reports meanwhile is not lost, and nobody hears of it too soon.
	g.road.Result(s, queued.ID, true, nil, "")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := g.road.Wait(ctx, queued.ID); err != nil || ctx.Err() == nil {
		t.Errorf("Wait came back (%v) before the result was recorded", err)
	}
	g.log.fill(false)
	if c, err := g.road.Wait(t.Context(), queued.ID); err != nil || c.State != signalbox.CommandSucceeded {
		t.Errorf("%+v, %v", c, err)
	}
	if got := conn.names(); !slices.Equal(got, []string{"queued"}) {
		t.Errorf("delivered %v", got)
	}
	if n := g.road.Stats().Active; n != 0 {
		t.Errorf("%d active", n)
	}
}

func TestFullLogDelaysTheQueue(t *testing.T) {
	g := newRig(t, Config{})
	g.submit(signalbox.CommandRequest{Name: "a", TTL: time.Hour})
	g.submit(signalbox.CommandRequest{Name: "b", TTL: time.Hour})
	g.log.fill(true)
	_, conn := g.connect("esp01", signalbox.ProtocolV1)
	if _, err := g.road.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: "c"}); err == nil {
		t.Error("taken although the log is full")
	}
	g.log.fill(false)
	conn.next(t)
	conn.next(t)
	if got := conn.names(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("delivered %v", got)
	}
}

func TestReplaceCancelsTheQueued(t *testing.T) {
	g := newRig(t, Config{})
	old1 := g.submit(signalbox.CommandRequest{Name: "servo1", Value: new("10"), TTL: time.Hour})
	other := g.submit(signalbox.CommandRequest{Name: "servo2", Value: new("20"), TTL: time.Hour})
	old2 := g.submit(signalbox.CommandRequest{Name: "servo1", Value: new("30"), TTL: time.Hour})
	newest := g.submit(signalbox.CommandRequest{Name: "servo1", Value: new("40"), TTL: time.Hour, Replace: true})
	g.durable()
	for _, c := range []signalbox.Command{old1, old2} {
		stored, err := g.store.Command(t.Context(), c.ID)
		if err != nil || stored.State != signalbox.CommandCanceled || stored.EndedAt.IsZero() {
			t.Errorf("stored %+v, %v", stored, err)
		}
	}
	_, conn := g.connect("esp01", signalbox.ProtocolV1)
	if a, b := conn.next(t), conn.next(t); a.ID != other.ID || b.ID != newest.ID {
		t.Errorf("delivered %s %s", a.Name, b.Name)
	}
	sent := g.submit(signalbox.CommandRequest{Name: "servo1", Value: new("50"), Replace: true})
	conn.next(t)
	if got := g.get(newest.ID); got.State != signalbox.CommandSent || sent.State != signalbox.CommandSent {
		t.Errorf("a sent command was replaced: %+v", got)
	}
}

func TestRefusedReplacementKeepsTheQueue(t *testing.T) {
	g := newRig(t, Config{})
	var want []string
	for _, name := range []string{"a", "b", "a", "c"} {
		want = append(want, g.submit(signalbox.CommandRequest{Name: name, TTL: time.Hour}).ID)
	}
	g.log.fill(true)
	_, conn := g.connect("esp01", signalbox.ProtocolV1)
	_, err := g.road.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: "a", TTL: time.Hour, Replace: true})
	wantCode(t, err, signalbox.KindUnavailable, "log_full")
	g.log.fill(false)
	for _, id := range want {
		if got := conn.next(t); got.ID != id {
			t.Errorf("delivered %s (%s); want %s", got.ID, got.Name, id)
		}
	}
}

func TestCancel(t *testing.T) {
	g := newRig(t, Config{})
	c := g.submit(signalbox.CommandRequest{Name: "x", TTL: time.Hour})
	got, err := g.road.Cancel(t.Context(), c.ID)
	if err != nil || got.State != signalbox.CommandCanceled {
		t.Fatalf("%+v, %v", got, err)
	}
	_, err = g.road.Cancel(t.Context(), c.ID)
	wantCode(t, err, signalbox.KindConflict, "already_ended")
	s, conn := g.connect("esp01", signalbox.ProtocolV2)
	c = g.submit(signalbox.CommandRequest{Name: "y"})
	conn.next(t)
	_, err = g.road.Cancel(t.Context(), c.ID)
	wantCode(t, err, signalbox.KindConflict, "already_sent")
	g.road.Ack(s, c.ID)
	_, err = g.road.Cancel(t.Context(), c.ID)
	wantCode(t, err, signalbox.KindConflict, "already_sent")
	for _, id := range []string{"nonsense", strings.Repeat("0", 26)} {
		_, err = g.road.Cancel(t.Context(), id)
		wantCode(t, err, signalbox.KindNotFound, "command_not_found")
	}
}

func TestIdempotency(t *testing.T) {
	g := newRig(t, Config{})
	s, conn := g.connect("esp01", signalbox.ProtocolV2)
	g.connect("esp02", signalbox.ProtocolV2)
	req := signalbox.CommandRequest{Device: "esp01", Name: "x", Value: new("1"), IdempotencyKey: "k"}
	var (
		all sync.WaitGroup
		ids [16]string
	)
	for i := range ids {
		all.Go(func() {
			c, err := g.road.Submit(context.Background(), req)
			if err != nil {
				t.Error(err)
			}
			ids[i] = c.ID
		})
	}
	all.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("one key made several commands: %v", ids)
		}
	}
	conn.next(t)
	g.road.Result(s, ids[0], true, nil, "")
	for _, life := range []string{"first", "second"} {
		if c := g.submit(req); c.ID != ids[0] || c.State != signalbox.CommandSucceeded {
			t.Errorf("in the %s life a repeat gives %+v", life, c)
		}
		for name, change := range map[string]func(*signalbox.CommandRequest){
			"name": func(r *signalbox.CommandRequest) { r.Name = "y" }, "value": func(r *signalbox.CommandRequest) { r.Value = new("2") },
			"no value": func(r *signalbox.CommandRequest) { r.Value = nil },
		} {
			other := req
			change(&other)
			_, err := g.road.Submit(t.Context(), other)
			if signalbox.CodeOf(err) != "idempotency_mismatch" {
				t.Errorf("another %s: %v", name, err)
			}
		}
		if life == "first" {
			g.restart()
		}
	}
	req.Device = "esp02"
	g.connect("esp02", signalbox.ProtocolV2)
	if c := g.submit(req); c.ID == ids[0] {
		t.Error("a key of another device was taken for this one's")
	}
	if got := conn.names(); len(got) != 1 {
		t.Errorf("delivered %v", got)
	}
}

func TestBulk(t *testing.T) {
	g := newRig(t, Config{MaxBulk: 100})
	_, conn := g.connect("esp01", signalbox.ProtocolV1)
	reqs := []signalbox.CommandRequest{
		{Device: "esp01", Name: "a"},
		{Device: "nobody", Name: "b"},
		{Device: "esp02", Name: "c"},
		{Device: "esp02", Name: "d", TTL: time.Hour, IdempotencyKey: "k"},
		{Device: "esp02", Name: "d", TTL: time.Hour, IdempotencyKey: "k"},
		{Device: "esp01", Name: "e"},
	}
	out := g.road.SubmitBulk(t.Context(), reqs)
	codes := []string{"", "device_not_found", "device_offline", "", "", ""}
	for i, want := range codes {
		if want == "" && out[i].Err != nil || want != "" && signalbox.CodeOf(out[i].Err) != want {
			t.Errorf("%d: %v; want %q", i, out[i].Err, want)
		}
	}
	if out[3].Command.ID != out[4].Command.ID {
		t.Error("one key made two commands")
	}
	if a, e := conn.next(t), conn.next(t); a.ID != out[0].Command.ID || e.ID != out[5].Command.ID || a.ID >= e.ID {
		t.Errorf("delivered %s %s", a.Name, e.Name)
	}
	for _, o := range g.road.SubmitBulk(t.Context(), make([]signalbox.CommandRequest, 101)) {
		wantCode(t, o.Err, signalbox.KindTooLarge, "bulk_too_large")
	}
}

func TestWaitWakesWhenSettled(t *testing.T) {
	g := newRig(t, Config{})
	s, conn := g.connect("esp01", signalbox.ProtocolV2)
	c := g.submit(signalbox.CommandRequest{Name: "x"})
	conn.next(t)
	got := make(chan signalbox.Command)
	for range 3 {
		go func() {
			c, err := g.road.Wait(context.Background(), c.ID)
			if err != nil {
				t.Error(err)
			}
			got <- c
		}()
	}
	g.road.Ack(s, c.ID)
	g.road.Result(s, c.ID, true, nil, "")
	for range 3 {
		if c := <-got; c.State != signalbox.CommandSucceeded {
			t.Errorf("%+v", c)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	c = g.submit(signalbox.CommandRequest{Device: "esp02", Name: "y", TTL: time.Hour})
	if c, err := g.road.Wait(ctx, c.ID); err != nil || c.State != signalbox.CommandQueued {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestForgetCancels(t *testing.T) {
	g := newRig(t, Config{})
	s, conn := g.connect("esp01", signalbox.ProtocolV2)
	sent := g.submit(signalbox.CommandRequest{Name: "x", Value: new("1")})
	conn.next(t)
	g.sessions.Detach(s)
	queued := g.submit(signalbox.CommandRequest{Name: "y", TTL: time.Hour})
	g.road.Forget(s.Device)
	for _, c := range []signalbox.Command{sent, queued} {
		if got := g.get(c.ID); got.State != signalbox.CommandCanceled {
			t.Errorf("%+v", got)
		}
	}
	if g.road.Watching(s.Device) || g.road.Stats().Active != 0 {
		t.Errorf("still something to do: %+v", g.road.Stats())
	}
}

func TestRestart(t *testing.T) {
	tests := []struct {
		name     string
		protocol signalbox.Protocol // 0: not connected before the restart
		events   func(g *rig, s *session.Session, id string)
		state    signalbox.CommandState // after the restart
		again    bool                   // sent on the next connection
	}{
		{"queued", 0, nil, signalbox.CommandQueued, true},
		{"v1 sent", signalbox.ProtocolV1, nil, signalbox.CommandSent, false},
		{"v2 sent", signalbox.ProtocolV2, nil, signalbox.CommandSent, true},
		{"v2 delivered", signalbox.ProtocolV2, func(g *rig, s *session.Session, id string) { g.road.Ack(s, id) }, signalbox.CommandDelivered, false},
		{"v2 succeeded", signalbox.ProtocolV2, func(g *rig, s *session.Session, id string) { g.road.Result(s, id, true, nil, "") }, signalbox.CommandSucceeded, false},
		{"v2 failed", signalbox.ProtocolV2, func(g *rig, s *session.Session, id string) { g.road.Result(s, id, false, nil, "no power") }, signalbox.CommandFailed, false},
		{"canceled", 0, func(g *rig, _ *session.Session, id string) {
			if _, err := g.road.Cancel(context.Background(), id); err != nil {
				g.t.Error(err)
			}
		}, signalbox.CommandCanceled, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(t, Config{})
			var s *session.Session
			var conn *testConn
			if tt.protocol != 0 {
				s, conn = g.connect("esp01", tt.protocol)
			}
			c := g.submit(signalbox.CommandRequest{Name: "x", Value: new("1"), TTL: time.Hour})
			if conn != nil {
				conn.next(t)
			}
			if tt.events != nil {
				tt.events(g, s, c.ID)
			}
			g.restart()
			if got := g.get(c.ID); got.State != tt.state {
				t.Errorf("state %s; want %s", got.State, tt.state)
			}
			protocol := max(tt.protocol, signalbox.ProtocolV1)
			s, conn = g.connect("esp01", protocol)
			last := g.submit(signalbox.CommandRequest{Name: "last"})
			if last.ID <= c.ID {
				t.Error("IDs do not grow across a restart")
			}
			first := conn.next(t)
			if again := first.ID == c.ID; again != tt.again {
				t.Errorf("sent again: %v; want %v", again, tt.again)
			}
			if tt.state == signalbox.CommandDelivered {
				g.road.Result(s, c.ID, true, nil, "")
				g.await(c.ID, signalbox.CommandSucceeded)
			}
			if tt.name == "v1 sent" {
				g.telemetry("esp01", `{"x":1}`)
				if got := g.get(c.ID); got.ConfirmedAt.IsZero() {
					t.Error("not confirmed in the second life")
				}
			}
		})
	}
}

func TestStopping(t *testing.T) {
	g := newRig(t, Config{})
	c := g.submit(signalbox.CommandRequest{Name: "x", TTL: time.Hour, IdempotencyKey: "k"})
	g.stop()
	g.stop = func() {}
	_, err := g.road.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: "y", TTL: time.Hour})
	wantCode(t, err, signalbox.KindUnavailable, "stopping")
	if again := g.submit(signalbox.CommandRequest{Name: "x", TTL: time.Hour, IdempotencyKey: "k"}); again.ID != c.ID {
		t.Errorf("a repeat gives %+v", again)
	}
}

func TestLoadEndsCommandsOfRemovedDevices(t *testing.T) {
	g := newRig(t, Config{})
	c := g.submit(signalbox.CommandRequest{Name: "x", TTL: time.Hour})
	delete(g.devices.ids, "esp01")
	g.restart()
	if got := g.get(c.ID); got.State != signalbox.CommandCanceled {
		t.Errorf("%+v", got)
	}
}
