package app

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"signalbox/internal/api"
	"signalbox/internal/compat"
)

// slowCommit is how long a commit may take before /readyz calls the database slow.
const slowCommit = 3 * time.Second

// newHandler joins the doors for people and programs.
func (a *App) newHandler() (http.Handler, error) {
	var err error
	if a.metrics, err = a.newMetrics(); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	gate := api.NewGate(a.people, a.cfg.HTTP.TrustedProxies)
	pages := compat.New(compat.Config{Gate: gate, Devices: a.devices, Commands: a.commands, Logger: a.logger})
	return api.New(api.Config{
		Gate: gate, People: a.people, Keys: a.keys, Devices: a.devices, Sessions: a.sessions, Live: a.live.hub, Sockets: &a.live.sockets, Streams: &a.live.streams, History: a.log, Archive: a.log, Spool: a.cfg.Data, Commands: a.commands, Replays: a.replays, Forwarders: a.forward.manager, ReplayToViewers: a.replayToViewers, Backup: a.backup, Retention: a.retention,
		Ready: a.Ready, Gatherer: a.metrics, Version: a.version, MaxBody: int64(a.cfg.HTTP.MaxBody), MaxImport: int64(a.cfg.HTTP.MaxImport), ReadMemory: int64(a.cfg.History.ReadMemory), ReadsRefused: &a.readsRefused,
		PublicDocs: a.cfg.HTTP.PublicDocs, PublicMetrics: a.cfg.HTTP.PublicMetrics, Mount: pages.Mount, Stopping: a.stopping, Logger: a.logger,
	}), nil
}

// local is the API with full authority.
func (a *App) local() http.Handler { return api.Local(a.handler) }

// Ready tells how the parts are: each in plain words, for /readyz.
func (a *App) Ready(context.Context) []api.Check {
	storage := api.Check{Name: "storage", OK: true, Message: "telemetry and commands are being stored"}
	if err := a.log.Err(); err != nil {
		storage.OK = false
		storage.Message, storage.Detail = fmt.Sprintf("nothing can be stored now; %d bytes wait", a.log.Pending()), err.Error()
	} else if busy := a.log.Busy(); busy >= slowCommit {
		storage.Message = fmt.Sprintf("degraded: the database is slow, a commit has been waiting for it for %s; %d bytes wait", busy.Round(time.Second), a.log.Pending())
	}
	hub := api.Check{Name: "hub", OK: true, Message: "devices may connect"}
	select {
	case <-a.stopping:
		hub.OK, hub.Message = false, "the hub is stopping"
	default:
	}
	checks := append([]api.Check{hub, storage, a.clockCheck(), a.mqttCheck(), a.queueCheck()}, a.linkChecks()...)
	return append(checks, a.forwardChecks()...)
}

// register adds metrics of parts that come late.
func (a *App) register(list []metric) error {
	for _, m := range list {
		if err := a.metrics.Register(m.collector()); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	return nil
}
