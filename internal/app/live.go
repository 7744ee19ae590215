package app

import (
	"context"
	"sync"

	"signalbox/internal/api"
	"signalbox/internal/live"
)

// liveParts are the stream of what happens.
type liveParts struct {
	hub     *live.Hub
	streams api.StreamStats
	sockets sync.WaitGroup // of viewers over WebSocket
}

// openLive makes the hub of viewers.
func (a *App) openLive() {
	c := a.cfg.Live
	a.live.hub = live.New(live.Config{
		Viewers: a.files.viewers, PerUser: c.PerUser, Choices: c.Choices, Queue: c.Queue, Intake: c.Intake, Resume: c.Resume, Resumes: c.Resumes, Logger: a.logger,
	}, live.Parts{Log: a.log, Bus: &a.bus, Devices: a.devices, Command: api.CommandEvent})
}

// awaitSockets waits for the viewers over WebSocket, which are told that the hub stops.
func (a *App) awaitSockets(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.live.sockets.Wait()
	}()
	select {
	case <-done:
	case <-ctx.Done():
		a.logger.Warn("some viewers had to be cut")
	}
}

func (a *App) liveMetrics() []metric {
	s, l := &a.live.streams, a.live.hub.Stats()
	read := func(n atomicNumber) func() float64 { return func() float64 { return float64(n.Load()) } }
	return []metric{
		gauge("live_viewers", "Viewers of the stream of what happens.", read(&l.Viewers)),
		gauge("live_groups", "Different choices of theirs.", read(&l.Groups)),
		counter("live_delivered", "Events given to viewers.", &l.Delivered),
		counter("live_encoded", "Events encoded, each once for all who see the same.", &l.Encoded),
		counter("live_blocks", "Blocks of events made.", &l.Blocks),
		counter("live_lagged", "Events that viewers were told they missed.", &l.Lagged),
		counter("live_behind", "Events for which live.intake had no room, and which viewers got out of history.", &l.Behind),
		counter("live_refused", "Viewers refused because of live.viewers or live.choices.", &l.Refused),
		counter("live_refused_per_user", "Viewers refused because of live.viewers_per_user, or because theirs would be more than half of live.choices.", &l.RefusedPerUser),
		counter("live_resumed", "Viewers that came back and got what they missed.", &l.Resumed),
		counter("live_unresumable", "Viewers that came back and could not.", &l.Unresumable),
		counter("live_event_streams", "Viewers over Server-Sent Events, of replays, too.", &s.EventStreams),
		counter("live_websockets", "Viewers over WebSocket, of replays, too.", &s.WebSockets),
		counter("live_stuck", "Viewers cut because they took nothing for 30 s.", &s.Stuck),
		counter("live_silent", "Viewers over WebSocket cut because they answered no ping.", &s.Silent),
		counter("live_flooded", "Viewers cut because they sent too much.", &s.Flooded),
		counter("live_violations", "Viewers cut because they did not keep to RFC 6455.", &s.Violations),
		counter("live_refused_origin", "Upgrades refused because a page of another origin asked with a cookie.", &s.Origins),
		counter("live_dismissed", "Viewers whose credential ended.", &s.Dismissed),
	}
}
