package command

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/session"
	"signalbox/internal/store"
)

// Devices is what the road needs to know of the registry. Its methods are called with no
// lock of this package held.
type Devices interface {
	// Find gives the device of that name.
	Find(name string) (signalbox.DeviceID, bool)
	// NameOf gives a device's name, "" when there is no such device.
	NameOf(id signalbox.DeviceID) string
	// Disabled reports whether the device may not log in.
	Disabled(id signalbox.DeviceID) bool
	// LatestObject is a copy of the device's last telemetry object, nil without one.
	LatestObject(id signalbox.DeviceID) []byte
}

// Log is what the road needs of the intake log.
type Log interface {
	history.Appender
	// Scan calls yield for every entry from position from on, in log order, up to what was
	// committed when it began. The entry and its body are lent for the call.
	Scan(ctx context.Context, from signalbox.Position, yield func(*signalbox.Entry) error) error
	// Hold keeps entries in the log.
	Hold() *history.Hold
}

// Store is what the road reads and writes of the database. Its rows follow the log.
type Store interface {
	Update(ctx context.Context, fn func(tx *store.Tx) error) error
	Meta(ctx context.Context, name string) (string, error)
	ActiveCommands(ctx context.Context, yield func(*signalbox.Command) error) error
	Command(ctx context.Context, id string) (*signalbox.Command, error)
	CommandByKey(ctx context.Context, device signalbox.DeviceID, key string) (*signalbox.Command, error)
	Commands(ctx context.Context, device signalbox.DeviceID, before string, limit int, yield func(*signalbox.Command) error) error
}

// Config tunes the road. The zero value of a field takes its default.
type Config struct {
	// DefaultTimeout is how long an answer is awaited when the request does not say
	// (default 30 s).
	DefaultTimeout time.Duration
	// ConfirmWindow is how long after sending telemetry may confirm a command (default 60 s).
	ConfirmWindow time.Duration
	// Keep is how long ended commands are kept, counted from their creation (default 30 days).
	Keep time.Duration
	// PruneEvery is how often older ones are deleted (default 1 h).
	PruneEvery time.Duration
	// MaxActivePerDevice bounds the commands of one device that wait or await an answer
	// (default 256).
	MaxActivePerDevice int
	// MaxActive bounds the commands held in memory (default 1,000,000; at most half of them
	// only because they may be confirmed yet).
	MaxActive int
	// MaxBulk bounds the requests of one SubmitBulk (default 100,000).
	MaxBulk int
}

func (cfg *Config) fill() {
	duration := func(d *time.Duration, otherwise time.Duration) {
		if *d <= 0 {
			*d = otherwise
		}
	}
	number := func(n *int, otherwise int) {
		if *n <= 0 {
			*n = otherwise
		}
	}
	duration(&cfg.DefaultTimeout, 30*time.Second)
	duration(&cfg.ConfirmWindow, time.Minute)
	duration(&cfg.Keep, 30*24*time.Hour)
	duration(&cfg.PruneEvery, time.Hour)
	number(&cfg.MaxActivePerDevice, 256)
	number(&cfg.MaxActive, 1_000_000)
	number(&cfg.MaxBulk, 100_000)
}

const (
	// linger is how long a command stays in memory after nothing can happen to it any more,
	// for those who ask right after.
	linger = time.Second
	// retryEvery is how soon a change the log refused is tried again.
	retryEvery = 50 * time.Millisecond
	// maxWatchedPerDevice bounds the commands of one device that await confirmation.
	maxWatchedPerDevice = 32
	// maxLateResults bounds the results that wait for a look into the store.
	maxLateResults = 1024
	// maxErrorLen bounds the error text of a result, in bytes.
	maxErrorLen = 1024
	// stopPatience is how long a stopping road waits for its last changes to be on disk.
	stopPatience = 2 * time.Second
)

// Road is the command road. Make one with New, then Load, then Run.
type Road struct {
	cfg      Config
	log      Log
	store    Store
	sessions *session.Table
	devices  Devices
	logger   *slog.Logger

	ids    ids
	shards [shardCount]shard
	index  index
	clock  clock
	out    outbox
	kicks  kicks
	late   chan lateResult
	image  image
	hold   *history.Hold // what follows the checkpoint stays in the log
	stats  stats

	held     atomic.Int64 // entries in memory
	active   atomic.Int64 // of them not settled
	watching atomic.Int64 // of them awaiting confirmation
	stopping atomic.Bool
}

// New makes a road. It registers with the log, so it must be made before the log runs.
func New(cfg Config, log Log, st Store, sessions *session.Table, devices Devices, logger *slog.Logger) *Road {
	cfg.fill()
	r := &Road{
		cfg: cfg, log: log, store: st, sessions: sessions, devices: devices, logger: logger,
		late: make(chan lateResult, maxLateResults),
	}
	for i := range r.shards {
		r.shards[i].init()
	}
	r.index.init()
	r.clock.wake = make(chan struct{}, 1)
	r.out.wake = make(chan struct{}, 1)
	r.kicks.wake = make(chan struct{}, 1)
	r.image.wake = make(chan struct{}, 1)
	log.OnCommit(func(signalbox.Position) { signal(r.out.wake) })
	log.Ride(r.ride)
	r.hold = log.Hold()
	return r
}

// Run delivers what is committed, keeps time and cleans up until ctx ends. Then Submit
// refuses, what is committed is still handed to connections, the last changes are given
// two seconds to reach the disk and as long to reach the table, and Run returns with no
// goroutine left behind. The log must outlive it. Rows that were not written in time are
// made from the log by the next Load.
func (r *Road) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	for _, part := range []func(context.Context){r.runOutbox, r.runClock, r.runKicks, r.runJanitor, r.runImage} {
		parts.Go(func() { part(ctx) })
	}
	<-ctx.Done()
	r.stopping.Store(true)
	parts.Wait()
	r.saveRest()
	if err := r.waitLast(ctx); err != nil {
		return fmt.Errorf("the last changes of commands are not on disk: %w", err)
	}
	r.dispatch()
	if err := r.waitLast(ctx); err != nil { // a command may have expired in the last moment
		return fmt.Errorf("the last changes of commands are not on disk: %w", err)
	}
	calm, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
	defer cancel()
	if err := r.flushRows(calm); err != nil {
		r.logger.Warn("some rows of commands were not written; the next start makes them from the log", "err", err)
	}
	return nil
}

// waitLast waits for the newest change to be on disk, for two seconds after ctx has ended.
func (r *Road) waitLast(ctx context.Context) error {
	calm, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
	defer cancel()
	r.image.mu.Lock()
	last := r.image.last
	r.image.mu.Unlock()
	return r.log.Wait(calm, last)
}

// signal wakes the one who receives from c, which holds one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// now is the hub's clock as commands record it: UTC, whole milliseconds.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

// notBefore gives t, or floor when the clock was set back in between.
func notBefore(t, floor time.Time) time.Time {
	if t.Before(floor) {
		return floor
	}
	return t
}
