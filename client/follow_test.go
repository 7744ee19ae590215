package client_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"signalbox"
	"signalbox/client"
	"signalbox/internal/api"
	"signalbox/internal/app"
)

// TestFollowGoesOn has connections that are lost in the middle, refused for a while, and for good.
func TestFollowGoesOn(t *testing.T) {
	var asked, told []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		asked = append(asked, query.Get("cursor"))
		if query.Get("snapshot") != "true" || query.Get("every") != "1s" || query.Get("fields") != "a,b" || !slices.Equal(query["device"], []string{"d", "e"}) {
			t.Errorf("the query is %s", r.URL.RawQuery)
		}
		event := func(kind, cursor, more string) {
			fmt.Fprintf(w, "event: %s\nid: %s\ndata: {\"kind\":%q,\"cursor\":%q%s}\n\n", kind, cursor, kind, cursor, more)
		}
		w.Header().Set("Content-Type", "text/event-stream")
		switch len(asked) {
		case 1:
			fmt.Fprint(w, "event: state\ndata: {\"kind\":\"state\",\"position\":9,\"state\":{\"device\":\"d\",\"presence\":\"online\"}}\n\n")
		case 2:
			event("ready", "x-9", `,"devices":1`)
			event("telemetry", "x-10", `,"position":10,"device":"d","object":{}`)
			fmt.Fprint(w, ": still here\nid: x-12\n\n")
		case 3:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 4:
			w.Header().Set("Retry-After", "1")
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusTooManyRequests)
			fmt.Fprint(w, `{"code":"too_many_viewers","detail":"there are too many"}`)
		case 5:
			event("telemetry", "x-13", `,"position":13,"device":"d","object":{}`)
			fmt.Fprint(w, "event: telem") // cut in the middle
		case 6:
			fmt.Fprint(w, "event: lagged\ndata: {\"kind\":\"lagged\",\"after\":\"x-13\",\"until\":\"y-11\",\"reason\":\"lost\"}\n\n")
		case 7: // what is left comes behind it: until is no place to come back to
			fmt.Fprint(w, "event: lagged\ndata: {\"kind\":\"lagged\",\"after\":\"y-11\",\"until\":\"y-20\",\"reason\":\"dropped\"}\n\n")
		default:
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"code":"unauthorized","detail":"no"}`)
		}
	}))
	defer srv.Close()
	h, err := client.New(srv.URL)
	must(t, err)
	events, err := h.Follow(t.Context(), client.Watch{
		Devices: []string{"d", "e"}, Fields: []string{"a", "b"}, Every: time.Second, Snapshot: true,
		Connection: func(lost error) { told = append(told, fmt.Sprint(lost != nil)) },
	})
	must(t, err)
	var got []string
	for e, err := range events {
		if err != nil {
			wantCode(t, err, signalbox.KindUnauthorized, "unauthorized")
			break
		}
		got = append(got, e.Kind+e.Cursor+e.Reason)
		if e.Kind == "state" && (e.State == nil || e.State.Device != "d" || e.State.Presence != signalbox.Online) {
			t.Errorf("the state is %+v", e.State)
		}
	}
	if want := []string{"state", "readyx-9", "telemetryx-10", "telemetryx-13", "laggedlost", "laggeddropped"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if want := []string{"", "", "x-12", "x-12", "x-12", "x-13", "y-11", "y-11"}; !slices.Equal(asked, want) {
		t.Errorf("asked for what is behind %q, want %q", asked, want)
	}
	if got := strings.Join(told, " "); got != "true false true false true false true false true" {
		t.Errorf("told that the connection was lost: %s", got)
	}
}

func TestFollowHasToBegin(t *testing.T) {
	h, err := client.New("http://hub", client.WithUnixSocket(filepath.Join(t.TempDir(), "nobody-listens")))
	must(t, err)
	_, err = h.Follow(t.Context(), client.Watch{})
	wantCode(t, err, signalbox.KindUnavailable, "unreachable")
}

// TestFollowOverRestarts stops hubs under a follower and starts others on the same data: no event
// is missing, none comes twice.
func TestFollowOverRestarts(t *testing.T) {
	cfg := app.DefaultConfig()
	cfg.Data = filepath.Join(t.TempDir(), "data")
	var handler atomic.Pointer[http.Handler]
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if now := handler.Load(); now != nil {
			(*now).ServeHTTP(w, r)
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer srv.Close()
	h, err := client.New(srv.URL)
	must(t, err)
	var hub *app.App
	start := func() {
		t.Helper()
		hub, err = app.Open(t.Context(), app.Options{Config: cfg, Logger: slog.New(slog.DiscardHandler), Version: "test"})
		must(t, err)
		next := api.Local(hub.LocalAPI())
		handler.Store(&next)
	}
	stop := func() {
		handler.Store(nil)
		must(t, hub.Close())
	}
	start()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err = h.AddDevice(ctx, client.NewDevice{Name: "esp01", Type: "box"})
	must(t, err)
	events, err := h.Follow(ctx, client.Watch{Kinds: []string{"command"}})
	must(t, err)
	const rounds, each = 4, 5
	heard, ready, ended := make(chan string, 2*rounds*each), make(chan bool, 2*rounds*each), make(chan struct{})
	go func() {
		defer close(ended)
		for e, err := range events {
			switch {
			case err != nil:
				return
			case e.Kind == "ready":
				ready <- true
			case e.Kind == "lagged":
				t.Errorf("missed %+v", e)
			case e.Kind == "command" && e.Command.State == signalbox.CommandQueued:
				heard <- e.Command.ID
			}
		}
	}()
	select {
	case <-ready: // from now on it has a cursor to come back with
	case <-time.After(30 * time.Second):
		t.Fatal("it is not told that what happens follows")
	}
	var sent []string
	for round := range rounds {
		if round > 0 {
			stop()
			start()
		}
		for range each {
			c, err := h.Send(ctx, "esp01", client.Send{Name: "servo1", TTL: time.Hour})
			must(t, err)
			sent = append(sent, c.ID)
		}
	}
	for i, want := range sent {
		select {
		case got := <-heard:
			if got != want {
				t.Fatalf("event %d is %s, want %s", i, got, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("event %d did not come", i)
		}
	}
	cancel()
	<-ended
	if len(heard) > 0 {
		t.Errorf("%d events came twice", len(heard))
	}
	stop()
}
