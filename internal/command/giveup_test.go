package command

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"signalbox"
)

// TestWithdrawnCommandsGiveTheirKeyBack: who repeats a request whose command was withdrawn
// gets a command that lives, in this life of the hub and the next.
func TestWithdrawnCommandsGiveTheirKeyBack(t *testing.T) {
	for _, online := range []bool{true, false} {
		t.Run(fmt.Sprint("online ", online), func(t *testing.T) {
			g := newRig(t, Config{})
			var conn *testConn
			if online {
				_, conn = g.connect("esp01", signalbox.ProtocolV2)
			}
			req := signalbox.CommandRequest{Device: "esp01", Name: "x", Value: new("1"), TTL: time.Hour, IdempotencyKey: "k"}
			g.log.hold(true)
			wantCode(t, g.giveUp(req), signalbox.KindUnavailable, "not_committed")
			g.log.hold(false)
			again := g.submit(req)
			if again.State == signalbox.CommandCanceled {
				t.Fatalf("the key gives the dead command: %+v", again)
			}
			if !online {
				_, conn = g.connect("esp01", signalbox.ProtocolV2)
			}
			if got := conn.next(t); got.ID != again.ID {
				t.Errorf("delivered %s; want %s", got.ID, again.ID)
			}
			g.restart()
			if third := g.submit(req); third.ID != again.ID {
				t.Errorf("after a restart the key gives %+v; want %s", third, again.ID)
			}
			list, err := g.road.List(t.Context(), 0, "", 10)
			if err != nil || len(list) != 2 || list[1].State != signalbox.CommandCanceled || list[1].IdempotencyKey != "" {
				t.Errorf("stored %+v, %v", list, err)
			}
		})
	}
}

// TestRepeatOfAWithdrawnCommand waits for the disk under a key whose command is withdrawn
// meanwhile: it must not be told that there is a command.
func TestRepeatOfAWithdrawnCommand(t *testing.T) {
	inBubble(t, Config{}, func(g *rig) {
		t := g.t
		req := signalbox.CommandRequest{Device: "esp01", Name: "x", TTL: time.Hour, IdempotencyKey: "k"}
		g.log.hold(true)
		first, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		outcomes := make(chan error, 2)
		submit := func(ctx context.Context) {
			_, err := g.road.Submit(ctx, req)
			outcomes <- err
		}
		go submit(first)
		synctest.Wait()
		go submit(t.Context())
		time.Sleep(2 * time.Second)
		g.log.hold(false)
		for range 2 {
			wantCode(t, <-outcomes, signalbox.KindUnavailable, "not_committed")
		}
		if c := g.submit(req); c.State != signalbox.CommandQueued {
			t.Errorf("%+v", c)
		}
	})
}

// TestWithdrawalWaitsForTheLog: while the log does not know of the withdrawal, the key is
// not free, or two commands would stand in it under one key.
func TestWithdrawalWaitsForTheLog(t *testing.T) {
	inBubble(t, Config{}, func(g *rig) {
		t := g.t
		req := signalbox.CommandRequest{Device: "esp01", Name: "x", TTL: time.Hour, IdempotencyKey: "k"}
		g.log.hold(true)
		ctx, cancel := context.WithCancel(t.Context())
		outcome := make(chan error, 1)
		go func() {
			_, err := g.road.Submit(ctx, req)
			outcome <- err
		}()
		synctest.Wait()
		g.log.fill(true)
		cancel()
		wantCode(t, <-outcome, signalbox.KindUnavailable, "not_committed")
		_, err := g.road.Submit(t.Context(), req)
		wantCode(t, err, signalbox.KindUnavailable, "log_full")
		g.log.fill(false)
		g.log.hold(false)
		time.Sleep(2 * retryEvery)
		if c := g.submit(req); c.State != signalbox.CommandQueued {
			t.Errorf("%+v", c)
		}
	})
}

// TestCommitPatience: nobody waits for ever for a disk that takes nothing.
func TestCommitPatience(t *testing.T) {
	inBubble(t, Config{}, func(g *rig) {
		t := g.t
		queued := g.submit(signalbox.CommandRequest{Name: "queued", TTL: time.Hour})
		other := g.submit(signalbox.CommandRequest{Name: "other", TTL: time.Hour})
		g.log.hold(true)
		bounded := func(what string, wait func() error) {
			t.Helper()
			start := time.Now()
			wantCode(t, wait(), signalbox.KindUnavailable, "not_committed")
			if took := time.Since(start); took != CommitPatience {
				t.Errorf("%s waited %s; want %s", what, took, CommitPatience)
			}
		}
		req := signalbox.CommandRequest{Device: "esp01", Name: "x", TTL: time.Hour}
		bounded("Submit", func() error {
			_, err := g.road.Submit(t.Context(), req)
			return err
		})
		bounded("SubmitBulk", func() error {
			out := g.road.SubmitBulk(t.Context(), []signalbox.CommandRequest{req, req, req})
			wantCode(t, out[0].Err, signalbox.KindUnavailable, "not_committed")
			return out[2].Err
		})
		bounded("Cancel", func() error {
			_, err := g.road.Cancel(t.Context(), queued.ID)
			return err
		})
		g.log.fill(true)
		bounded("Cancel with a full log", func() error {
			_, err := g.road.Cancel(t.Context(), other.ID)
			return err
		})
		g.log.fill(false)
		g.log.hold(false)
		g.after(time.Second)
		g.wantState(queued.ID, signalbox.CommandCanceled)
		g.wantState(other.ID, signalbox.CommandCanceled)
	})
}
