package gateway

import (
	"sync"
	"time"

	"signalbox"
)

// rivals notices two boards that share a name and keep taking the device from each other.
type rivals struct {
	mu    sync.Mutex
	byID  map[signalbox.DeviceID]*rivalry
	swept time.Time
}

type rivalry struct {
	since    time.Time
	times    int
	reported bool
}

const (
	// rivalTimes replacements within rivalWindow are a rivalry; each further one waits rivalWait.
	rivalTimes  = 5
	rivalWindow = time.Minute
	rivalWait   = 2 * time.Second
	// maxRivals bounds what is remembered; beyond it new rivalries go unnoticed until old ones age.
	maxRivals = 65536
)

func (r *rivals) init() { r.byID = make(map[signalbox.DeviceID]*rivalry) }

// replaced counts a take-over and reports whether it is time to tell people.
func (r *rivals) replaced(id signalbox.DeviceID, now time.Time) (tell bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweep(now)
	v := r.byID[id]
	if v == nil || now.Sub(v.since) > rivalWindow {
		if v == nil && len(r.byID) >= maxRivals {
			return false
		}
		v = &rivalry{since: now}
		r.byID[id] = v
	}
	v.times++
	tell = v.times > rivalTimes && !v.reported
	v.reported = v.reported || tell
	return tell
}

// slow reports whether a login that would take the device over has to wait.
func (r *rivals) slow(id signalbox.DeviceID, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.byID[id]
	return v != nil && v.times > rivalTimes && now.Sub(v.since) <= rivalWindow
}

func (r *rivals) sweep(now time.Time) {
	if now.Sub(r.swept) < rivalWindow {
		return
	}
	r.swept = now
	for id, v := range r.byID {
		if now.Sub(v.since) > rivalWindow {
			delete(r.byID, id)
		}
	}
}
