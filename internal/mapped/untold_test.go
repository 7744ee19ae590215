package mapped

import (
	"testing"
	"time"
)

// TestUnknownDevicesAreTold: the first message at once, then once a minute how many there were.
func TestUnknownDevicesAreTold(t *testing.T) {
	var u untold
	begin := time.Unix(1000, 0)
	for i, step := range []struct {
		after time.Duration
		want  int64
	}{{0, 1}, {time.Second, 0}, {59 * time.Second, 0}, {time.Minute, 3}, {2*time.Minute - 1, 0}, {2 * time.Minute, 2}} {
		if got := u.note(begin.Add(step.after)); got != step.want {
			t.Errorf("message %d after %s: told of %d, want %d", i+1, step.after, got, step.want)
		}
	}
}
