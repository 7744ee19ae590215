package app_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"signalbox/internal/app"
)

// TestMetrics: what the table of commands is behind the log can be watched, and what replays do.
func TestMetrics(t *testing.T) {
	cfg := app.DefaultConfig()
	cfg.Data = filepath.Join(t.TempDir(), "data")
	hub, err := app.Open(t.Context(), app.Options{Config: cfg, Logger: slog.New(slog.DiscardHandler), Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := hub.Close(); err != nil {
			t.Error(err)
		}
	}()
	w := httptest.NewRecorder()
	hub.LocalAPI().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, name := range []string{
		"signalbox_command_rows_total", "signalbox_command_rows_rushed_total", "signalbox_command_rows_behind",
		"signalbox_commands_missed_total", "signalbox_commands_held",
		"signalbox_replays", "signalbox_replays_playing", "signalbox_replays_started_total", "signalbox_replays_refused_total",
		"signalbox_replay_messages_total", "signalbox_replay_bytes_total", "signalbox_frames_replayed_total", "signalbox_history_reads_refused_total",
	} {
		if !strings.Contains(w.Body.String(), "\n"+name+" ") {
			t.Errorf("there is no %s", name)
		}
	}
}
