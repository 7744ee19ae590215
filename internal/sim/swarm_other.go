//go:build !linux

package sim

import (
	"context"
	"errors"
	"time"
)

var errLinux = errors.New("a swarm of connections needs epoll, so it needs Linux")

// Swarm holds many connections for measuring; it needs Linux.
type Swarm struct{ RTT, SavedAfter Histogram }

// NewSwarm refuses: this is not Linux.
func NewSwarm(cfg SwarmConfig) (*Swarm, error) { return nil, errors.Join(errLinux, cfg.check()) }

// Connect refuses.
func (*Swarm) Connect(context.Context) (time.Duration, error) { return 0, errLinux }

// Send refuses.
func (*Swarm) Send(context.Context, Load) (Sent, error) { return Sent{}, errLinux }

// Drop refuses.
func (*Swarm) Drop(context.Context, bool) error { return errLinux }

// Close does nothing.
func (*Swarm) Close() {}

// Stats gives zeros.
func (*Swarm) Stats() SwarmStats { return SwarmStats{} }

// Progress refuses.
func (*Swarm) Progress(context.Context) ([]Progress, error) { return nil, errLinux }
