package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"signalbox"
	"signalbox/client"
)

func TestReplays(t *testing.T) {
	h, _ := newHub(t)
	ctx := t.Context()
	_, err := h.StartReplay(ctx, client.ReplayQuery{Devices: []string{"nobody"}})
	wantCode(t, err, signalbox.KindNotFound, "device_not_found")
	from := time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)
	made, err := h.StartReplay(ctx, client.ReplayQuery{From: from, To: from.Add(time.Hour), Speed: 10, Shifted: true, Pace: "time", Paused: true})
	must(t, err)
	if made.State != "waiting" || made.Speed != 10 || made.Times != "shifted" || made.Pace != "time" || !made.Paused || !made.From.Equal(from) || made.Hub == "" {
		t.Errorf("made %+v", made)
	}
	paused, speed := false, 0.0
	changed, err := h.ChangeReplay(ctx, made.ID, client.ReplayChange{Paused: &paused, Speed: &speed, Seek: from})
	must(t, err)
	if changed.Paused || changed.Speed != 0 || changed.Seeks != 1 {
		t.Errorf("changed %+v", changed)
	}
	events, err := h.PlayReplay(ctx, made.ID)
	must(t, err)
	var states []string
	for e, err := range events {
		must(t, err)
		if e.Kind != "replay" || e.Replay.ID != made.ID || e.Replay.Hub != made.Hub {
			t.Errorf("event %+v", e)
		}
		states = append(states, e.State)
	}
	if !slices.Equal(states, []string{"playing", "ended"}) {
		t.Errorf("the states were %v", states)
	}
	ended, err := h.Replay(ctx, made.ID)
	must(t, err)
	list, err := h.Replays(ctx)
	must(t, err)
	if ended.Reason != "done" || ended.EndedAt.IsZero() || len(list) != 1 || list[0].ID != made.ID {
		t.Errorf("in the end there are %+v", list)
	}
	must(t, h.StopReplay(ctx, made.ID))
	wantCode(t, h.StopReplay(ctx, made.ID), signalbox.KindNotFound, "replay_not_found")
	_, err = h.PlayReplay(ctx, made.ID)
	wantCode(t, err, signalbox.KindNotFound, "replay_not_found")
}

// TestReplayGoesOn has connections that are lost in the middle.
func TestReplayGoesOn(t *testing.T) {
	var asked []string
	event := func(w http.ResponseWriter, n int) {
		fmt.Fprintf(w, "id: 0-%d\nevent: telemetry\ndata: {\"device\":\"d\",\"position\":%d,\"object\":{},\"replay\":{\"id\":\"r\",\"hub\":\"h\"}}\n\n", n, n)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Header.Get("Last-Event-ID"))
		w.Header().Set("Content-Type", "text/event-stream")
		switch r.URL.Path + fmt.Sprint(len(asked)) {
		case "/api/v1/replays/r/stream1":
			event(w, 1)
			event(w, 2)
		case "/api/v1/replays/r/stream2":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/api/v1/replays/r/stream3":
			event(w, 3)
			fmt.Fprint(w, "event: telem") // cut in the middle
		default:
			fmt.Fprint(w, "event: replay\ndata: {\"state\":\"replaced\",\"replay\":{\"id\":\"r\",\"hub\":\"h\"}}\n\n")
		}
	}))
	defer srv.Close()
	h, err := client.New(srv.URL)
	must(t, err)
	events, err := h.PlayReplay(t.Context(), "r")
	must(t, err)
	var got []signalbox.Position
	for e, err := range events {
		if err != nil {
			wantCode(t, err, signalbox.KindConflict, "replay_taken")
			break
		}
		got = append(got, e.Position)
	}
	if !slices.Equal(got, []signalbox.Position{1, 2, 3}) || !slices.Equal(asked, []string{"", "0-2", "0-2", "0-3"}) {
		t.Errorf("got %v, asked for what is behind %q", got, asked)
	}
}

func TestReplayIsGivenUp(t *testing.T) {
	h, _ := newHub(t)
	made, err := h.StartReplay(t.Context(), client.ReplayQuery{Paused: true})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	events, err := h.PlayReplay(ctx, made.ID)
	must(t, err)
	for e, err := range events {
		if err == nil && e.State == "paused" {
			cancel()
			continue
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %+v, %v", e, err)
		}
	}
	cancel()
}
