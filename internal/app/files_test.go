package app

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"signalbox/internal/gateway"
)

func TestDivideOpenFiles(t *testing.T) {
	tests := []struct {
		name    string
		files   int
		devices int // set; 0 for the default
		http    int // the same
		want    share
		line    string // the level of the line that tells, empty for none
	}{
		{"no limit", 0, 0, 0, share{devices: 1_000_000, http: 4096, viewers: 1000}, ""},
		{"plenty", 2_000_000, 0, 0, share{devices: 1_000_000, http: 4096, viewers: 1000}, ""},
		{"a usual limit", 20_000, 0, 0, share{devices: 18_623, http: 993, viewers: 894}, "INFO"},
		{"a usual limit and a wish", 20_000, 19_000, 0, share{devices: 18_623, http: 993, viewers: 894}, "WARN"},
		{"a usual limit and a modest wish", 20_000, 10_000, 0, share{devices: 10_000, http: 4096, viewers: 1000}, ""},
		{"few", 1024, 0, 0, share{devices: 630, http: 224, viewers: 202}, "INFO"},
		{"very few", 64, 0, 0, share{devices: 20, http: 12, viewers: 11}, "INFO"},
		{"none to speak of", 4, 0, 0, share{devices: 1, http: 1, viewers: 1}, "INFO"},
		{"few by choice", 0, 0, 500, share{devices: 1_000_000, http: 500, viewers: 450}, "INFO"},
		{"one by choice", 0, 0, 1, share{devices: 1_000_000, http: 1, viewers: 1}, "INFO"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := DefaultConfig()
			if tt.devices != 0 {
				c.Devices.MaxConnections = tt.devices
			}
			if tt.http != 0 {
				c.HTTP.MaxConnections = tt.http
			}
			got := divide(tt.files, &c)
			if got.devices != tt.want.devices || got.http != tt.want.http || got.viewers != tt.want.viewers {
				t.Errorf("devices get %d, people %d and viewers %d, want %d, %d and %d", got.devices, got.http, got.viewers, tt.want.devices, tt.want.http, tt.want.viewers)
			}
			if tt.files >= 64 {
				if all := gateway.Reach(got.devices) + got.http; all >= tt.files || got.sockets+got.http >= tt.files {
					t.Errorf("%d connections, %d sockets of %d files", all, got.sockets+got.http, tt.files)
				}
			}
			var out bytes.Buffer
			got.tell(slog.New(slog.NewTextHandler(&out, nil)))
			if lines := strings.Count(out.String(), "\n"); (lines == 1) != (tt.line != "") || lines > 1 || !strings.Contains(out.String(), tt.line) {
				t.Errorf("the log says %q, want one line of level %q", out.String(), tt.line)
			}
		})
	}
}
