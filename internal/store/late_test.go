package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"signalbox"
)

// silentServer is a server that never answers.
type silentServer struct{ driver.Connector }

func (silentServer) Connect(ctx context.Context) (driver.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestLate: whose deadline has ended is told.
func TestLate(t *testing.T) {
	const silent, late = "the database server at db:1 cannot be reached (no answer in time)", "the time that was given for asking the database ended before its answer"
	tests := []struct {
		name string
		time time.Duration // of the caller
		own  time.Duration // of the caller, but this package's
		want string
	}{
		{"the caller's", time.Second, 0, late},
		{"the connection's", time.Hour, 0, silent},
		{"this package's", time.Hour, time.Second, silent},
		{"the caller's within this package's", time.Second, time.Minute, late},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &server{to: target{address: "db:1"}}
				e.d = &postgres{e: e}
				c := &connector{Connector: silentServer{}, timeout: 5 * time.Second, explain: e.explain, unreachable: e.unreachable}
				ctx, cancel := context.WithTimeout(t.Context(), tt.time)
				defer cancel()
				if tt.own > 0 {
					var done context.CancelFunc
					ctx, done = context.WithTimeoutCause(ctx, tt.own, errSilent)
					defer done()
				}
				_, err := c.Connect(ctx)
				told, ok := errors.AsType[*signalbox.Error](err)
				if !ok || told.Message != tt.want || told.Kind != signalbox.KindUnavailable || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("the error is %v", err)
				}
			})
		})
	}
}
