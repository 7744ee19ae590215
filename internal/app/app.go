package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox"
	"signalbox/internal/auth"
	"signalbox/internal/bus"
	"signalbox/internal/command"
	"signalbox/internal/compat"
	"signalbox/internal/gateway"
	"signalbox/internal/history"
	"signalbox/internal/history/plain"
	"signalbox/internal/ingest"
	"signalbox/internal/registry"
	"signalbox/internal/replay"
	"signalbox/internal/session"
	"signalbox/internal/store"
	"signalbox/internal/wire"
)

// Options are what a hub is made of besides its configuration.
type Options struct {
	Config  Config
	Logger  *slog.Logger
	Version string
	// From tells which settings somebody made, by key, as LoadedConfig.From: a default port that is
	// taken is done without, one that was asked for is an error.
	From map[string]string
}

// App is an open hub. Open gives one that works in its own process only; Serve opens its
// doors to others.
type App struct {
	cfg     Config
	from    map[string]string // Options.From
	logger  *slog.Logger
	version string
	lock    *os.File
	began   time.Time

	store     *store.Store
	keys      *auth.Keys
	bus       bus.Bus
	log       *history.Log
	plain     *plain.Table // nil in the mode chunks
	devices   *registry.Registry
	sessions  *session.Table
	people    *auth.People
	commands  *command.Road
	ingest    *ingest.Road
	gateway   *gateway.Gateway
	viewers   *compat.Viewers
	mqtt      mqttParts
	replays   *replay.Manager
	live      liveParts
	forward   forwardParts
	logins    *auth.DeviceLogins
	retention *retainer
	handler   http.Handler
	metrics   *prometheus.Registry

	files share       // of the system's open files
	ahead aheadOfTime // of the log

	readsRefused atomic.Int64

	stopping chan struct{} // closed when the hub begins to stop
	stopOnce sync.Once
	background
	addressMu sync.Mutex
	addresses map[string]string
	transports
}

// background is the work that goes on while the hub is open, and how to end it in order:
// first what makes entries for the log, then the log.
type background struct {
	endRoads, endLog context.CancelFunc
	roads, logDone   sync.WaitGroup
	logErr           error
	closeOnce        sync.Once
	closeErr         error
}

// Open takes the data directory (made if it is missing), opens the store and brings the
// parts to life. Another process that has the directory gives KindConflict with code
// data_locked. Close ends what Open began.
func Open(ctx context.Context, o Options) (*App, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	a := &App{cfg: o.Config, from: o.From, logger: o.Logger, version: o.Version, began: time.Now(), addresses: map[string]string{}, stopping: make(chan struct{})}
	a.files = divide(openFiles(), &a.cfg)
	if err := os.MkdirAll(a.cfg.Data, 0o700); err != nil {
		return nil, signalbox.Wrap(signalbox.KindUnavailable, "data_unusable", err, "the data directory %s cannot be made", a.cfg.Data)
	}
	var err error
	if a.lock, err = lockDir(a.cfg.Data); err != nil {
		return nil, err
	}
	// A directory that was there already may be open to others.
	if err := os.Chmod(a.cfg.Data, 0o700); err != nil { //nolint:gosec // a directory needs x
		a.logger.Warn("the data directory cannot be made private", "data", a.cfg.Data, "err", err)
	}
	if err := a.open(ctx); err != nil {
		return nil, errors.Join(err, a.release())
	}
	return a, nil
}

func (a *App) open(ctx context.Context) (err error) {
	if a.keys, err = auth.OpenKeys(filepath.Join(a.cfg.Data, "secret.key")); err != nil {
		return err
	}
	if err := a.checkStore(); err != nil {
		return err
	}
	where, err := a.storeConfig()
	if err != nil {
		return err
	}
	if a.store, err = store.Open(ctx, where); err != nil {
		return err
	}
	if err := a.noteStore(); err != nil {
		return err
	}
	if err := a.store.CheckRestored(ctx); err != nil {
		return err
	}
	if err := a.checkKeys(ctx); err != nil {
		return err
	}
	if err := a.openRoads(ctx); err != nil {
		return err
	}
	a.handler, err = a.newHandler()
	if err != nil {
		return err
	}
	a.start(ctx)
	return nil
}

// checkKeys notices a key file that is not the one the database was filled under: without
// it, chosen and imported device secrets can no longer be checked.
func (a *App) checkKeys(ctx context.Context) error {
	const name = "key_id"
	known, err := a.store.Meta(ctx, name)
	if err != nil {
		return err
	}
	if known == "" {
		return a.store.Update(ctx, func(tx *store.Tx) error { return tx.SetMeta(ctx, name, a.keys.ID()) })
	}
	if known != a.keys.ID() {
		a.logger.Error("secret.key is not the key file this database was made with: devices with chosen or imported secrets cannot log in until it is restored or their secrets are set again")
	}
	return nil
}

// openRoads makes the parts from the ground up and loads what they keep.
func (a *App) openRoads(ctx context.Context) (err error) {
	h := a.cfg.History
	spool := "" // the embedded database is as near as the local disk
	if a.store.Path() == "" {
		spool = a.cfg.Data
	}
	a.log, err = history.Open(ctx, history.Config{
		MaxWait: h.MaxWait, AckWait: h.AckWait, RowBytes: h.RowBytes, MaxPending: h.MaxPending, TailBytes: h.Tail, Cold: h.Cold, Spool: spool, SpoolBytes: int64(h.Spool),
		Announce: a.bus.Publish, Logger: a.logger,
	}, a.store)
	if err != nil {
		return err
	}
	a.lookAtClock(time.Now()) // before anything is appended
	a.devices = registry.New(a.store, a.logger)
	if err := a.devices.Load(ctx, a.log); err != nil {
		return err
	}
	if a.retention, err = newRetainer(ctx, a.store, a.log, a.devices, h.Keep, a.logger); err != nil {
		return err
	}
	if err := a.openPlain(); err != nil {
		return err
	}
	a.people, err = auth.NewPeople(ctx, auth.PeopleConfig{
		Store: a.store, Backoff: auth.NewBackoff(auth.BackoffConfig{Max: a.cfg.Login.BackoffMax}), LoginLife: a.cfg.Login.Session, Revoked: a.forgetToken, Logger: a.logger,
	})
	if err != nil {
		return err
	}
	instance, err := replay.InstanceID(ctx, a.store)
	if err != nil {
		return err
	}
	a.replays = replay.New(replay.Config{History: a.log, NameOf: directory{a.devices}.NameOf, Hub: instance, Max: a.cfg.Replay.Max, Logger: a.logger})
	a.openLive()
	a.sessions = session.New()
	c := a.cfg.Commands
	a.commands = command.New(command.Config{
		DefaultTimeout: c.Timeout, ConfirmWindow: c.ConfirmWindow, Keep: c.Keep, MaxActivePerDevice: c.MaxActivePerDevice, MaxBulk: c.MaxBulk,
	}, a.log, a.store, a.sessions, directory{a.devices}, a.logger)
	if err := a.commands.Load(ctx); err != nil {
		return err
	}
	t, d := a.cfg.Telemetry, a.cfg.Devices
	a.ingest = ingest.New(ingest.Config{Past: t.Past, Future: t.Future, Logger: a.logger}, a.log, a.devices, a.sessions, a.commands)
	a.logins = auth.NewDeviceLogins(a.keys, auth.DeviceLoginsConfig{
		Backoff:      auth.BackoffConfig{Failures: d.Backoff.Failures, Max: d.Backoff.Max, Size: d.Backoff.Remembered},
		DailyGuesses: d.Backoff.DailyGuesses,
	})
	if err := a.openViewers(); err != nil {
		return err
	}
	a.gateway = gateway.New(gateway.Config{
		Limits: wire.Limits{Depth: t.MaxDepth, Keys: t.MaxKeys}, MaxFrame: d.MaxFrame, MessagesPerSecond: d.MessagesPerSecond, Burst: d.Burst,
		AuthTimeout: d.AuthTimeout, PerAddress: min(d.ConnectionsPerAddress, a.files.devices), MaxConnections: a.files.devices, Origins: d.Origins,
		Heartbeat: d.PingInterval, Logger: a.logger,
	}, gateway.Parts{
		Devices: a.devices, Sessions: a.sessions, Ingest: a.ingest, Commands: a.commands, Log: a.log, Logins: a.logins, Viewers: a.viewers,
	})
	if err := a.openMQTT(ctx); err != nil {
		return err
	}
	return a.openForward(ctx)
}

const (
	// checkpointEvery is how often states that changed are stored; sooner, by looks each
	// checkpointLook, when the log has grown to checkpointEntries for want of it.
	checkpointEvery   = time.Minute
	checkpointLook    = time.Second
	checkpointEntries = 8 << 20
	// logGrace is how long a stopping hub tries to write its last entries.
	logGrace = 5 * time.Second
)

// start sets the background work going.
func (a *App) start(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	logCtx, endLog := context.WithCancel(ctx)
	roads, endRoads := context.WithCancel(ctx)
	a.endLog, a.endRoads = endLog, endRoads
	a.logDone.Go(func() { a.logErr = a.log.Run(logCtx, logGrace) })
	work := a.mqttWork()
	maps.Copy(work, map[string]func(context.Context) error{
		"commands": a.commands.Run, "gateway": a.gateway.Run, "viewers": a.viewers.Run, "people": a.people.Run, "checkpoint": a.runCheckpoints, "clock": a.runClock,
		"retention": a.retention.run, "plain": a.runPlain, "live": a.live.hub.Run, "replays": a.replays.Run,
	})
	for name, run := range work {
		a.roads.Go(func() {
			if err := run(roads); err != nil && roads.Err() == nil {
				a.logger.Error("a part of the hub ended early", "part", name, "err", err)
			}
		})
	}
	a.prepareForward(ctx)
	a.ingest.Begin()
}

// runCheckpoints stores device states from time to time.
func (a *App) runCheckpoints(ctx context.Context) error {
	tick := time.NewTicker(checkpointLook)
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if time.Since(last) < checkpointEvery && a.log.Kept() < checkpointEntries {
			continue
		}
		last = time.Now()
		if _, err := a.devices.Checkpoint(ctx, a.log); err != nil && ctx.Err() == nil {
			a.logger.Warn("device states could not be stored; a restart would read them from the log", "err", err)
		}
	}
}

// beginStop lets waits and streams end.
func (a *App) beginStop() { a.stopOnce.Do(func() { close(a.stopping) }) }

// Close stops everything in order and waits for it: the roads, then the log with all it
// holds, then the store. It may be called more than once.
func (a *App) Close() error {
	a.closeOnce.Do(func() {
		a.beginStop()
		unserved := a.closeUnserved()
		a.endRoads()
		a.roads.Wait()
		a.endForward()
		ctx, cancel := context.WithTimeout(context.Background(), logGrace)
		defer cancel()
		var errs []error
		if a.log.Err() == nil {
			if _, err := a.devices.Checkpoint(ctx, a.log); err != nil {
				errs = append(errs, fmt.Errorf("store device states: %w", err))
			}
		}
		a.endLog()
		a.logDone.Wait()
		a.closeErr = errors.Join(append(errs, unserved, a.logErr, a.release())...)
		if a.served {
			a.logger.Info("stopped", "clean", a.closeErr == nil, "up", time.Since(a.began).Round(time.Second))
		}
	})
	return a.closeErr
}

// release gives back what open took.
func (a *App) release() error {
	var errs []error
	if a.plain != nil {
		errs = append(errs, a.plain.Close())
	}
	if a.store != nil {
		errs = append(errs, a.store.Close())
	}
	return errors.Join(append(errs, a.lock.Close())...)
}

// FirstAdmin makes the user admin when there are no users at all. An empty password is
// replaced by a random one; the password in use is returned when one was made. The doors
// are opened before (see Listen), so that a start which fails for a refused password or a
// taken port leaves no user behind whose password nobody was told.
func (a *App) FirstAdmin(ctx context.Context, password string) (name, used string, made bool, err error) {
	if len(a.people.ListUsers()) > 0 {
		return "", "", false, nil
	}
	if password == "" {
		password = auth.NewPassword()
	}
	if err := auth.CheckNewPassword(password); err != nil {
		return "", "", false, err
	}
	if err := a.Listen(ctx); err != nil {
		return "", "", false, err
	}
	if _, err := a.people.AddUser(ctx, adminName, password); err != nil {
		return "", "", false, err
	}
	return adminName, password, true, nil
}

const adminName = "admin"

// LocalAPI is the HTTP API with the authority of whoever owns the data directory.
func (a *App) LocalAPI() http.Handler { return a.local() }

// directory is the registry as the command road sees it.
type directory struct{ devices *registry.Registry }

// Find implements command.Devices.
func (d directory) Find(name string) (signalbox.DeviceID, bool) {
	if v := d.devices.Find(name); v != nil {
		return v.ID, true
	}
	return 0, false
}

// NameOf implements command.Devices.
func (d directory) NameOf(id signalbox.DeviceID) string {
	if v := d.devices.Get(id); v != nil {
		return v.Name
	}
	return ""
}

// Disabled implements command.Devices.
func (d directory) Disabled(id signalbox.DeviceID) bool {
	v := d.devices.Get(id)
	return v == nil || v.Disabled()
}

// LatestObject implements command.Devices.
func (d directory) LatestObject(id signalbox.DeviceID) []byte {
	if v := d.devices.Get(id); v != nil {
		return v.LatestObject()
	}
	return nil
}
