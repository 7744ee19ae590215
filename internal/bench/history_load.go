package bench

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"signalbox"
)

// realistic says what the telemetry of these measurements is.
const realistic = "Telemetry is the object of the ESP32 servo box (type, status, servo1, servo2, button1, button2; 100 to 120 bytes), each device with a state of " +
	"its own: a servo moves to another angle in 1 of 50 messages, a button changes in 1 of 20, the status in 1 of 1,000."

// box is the state of one device.
type box struct{ servo1, servo2, buttons, status uint8 }

// boxes makes telemetry for many devices.
type boxes struct {
	rng  rand.PCG
	all  []box
	body []byte
}

func newBoxes(devices int, seed uint64) *boxes {
	b := &boxes{all: make([]box, devices)}
	b.rng.Seed(seed, 1)
	for i := range b.all {
		r := b.rng.Uint64()
		b.all[i] = box{servo1: uint8(r % 181), servo2: uint8(r >> 8 % 181), buttons: uint8(r >> 16 & 3)}
	}
	return b
}

// next gives the next message of device i, valid until the next call.
func (b *boxes) next(i int) []byte {
	const (
		servoMoves   = 1<<16/50 + 1
		buttonMoves  = 1<<12/20 + 1
		statusMoves  = 1<<20/1000 + 1
		servoMask    = 1<<16 - 1
		buttonMask   = 1<<12 - 1
		statusStates = 3
	)
	d, r := &b.all[i], b.rng.Uint64()
	if r&servoMask < servoMoves {
		d.servo1 = uint8(b.rng.Uint64() % 181)
	}
	if r>>16&servoMask < servoMoves {
		d.servo2 = uint8(b.rng.Uint64() % 181)
	}
	if r>>32&buttonMask < buttonMoves {
		d.buttons ^= 1
	}
	if r>>44&buttonMask < buttonMoves {
		d.buttons ^= 2
	}
	if more := b.rng.Uint64(); more&(1<<20-1) < statusMoves {
		d.status = uint8(more >> 20 % statusStates)
	}
	b.body = append(b.body[:0], `{"type":"telemetry","status":"`...)
	b.body = append(b.body, [statusStates]string{"работает", "ожидание", "ошибка"}[d.status]...)
	b.body = append(b.body, `","servo1":`...)
	b.body = strconv.AppendUint(b.body, uint64(d.servo1), 10)
	b.body = append(b.body, `,"servo2":`...)
	b.body = strconv.AppendUint(b.body, uint64(d.servo2), 10)
	b.body = append(b.body, `,"button1":"`...)
	b.body = append(b.body, [2]string{"released", "pressed"}[d.buttons&1]...)
	b.body = append(b.body, `","button2":"`...)
	b.body = append(b.body, [2]string{"released", "pressed"}[d.buttons>>1]...)
	b.body = append(b.body, `"}`...)
	return b.body
}

const (
	month        = 30 * 24 * time.Hour
	deepMost     = 5_100_000 // messages of the device that has the most
	monthMost    = 20        // devices with a whole month at a message a minute
	monthRows    = int(month / time.Minute)
	secondMicros = int64(time.Second / time.Microsecond)
)

// past is a history of a month, made in the order of time: device 1 has half of it; some have the whole month at a
// message a minute; at the end all send a message a second, for an hour if that is at most a third; before that the
// others have a message a minute for as long as the number of messages allows.
type past struct {
	Devices, Messages int
	Deep, Months      int       // messages of device 1; how many devices have the month
	Dense             int       // seconds at the end in which all send each second
	Rest              int       // messages of each other device before that
	End               time.Time // whole minutes
}

// planPast divides messages among devices.
func planPast(devices, messages int, end time.Time) (past, error) {
	p := past{Devices: devices, Messages: messages, End: end.UTC().Truncate(time.Minute)}
	p.Deep = min(messages*51/100, deepMost)
	p.Months = max(1, min(monthMost, messages/10/monthRows))
	p.Dense = min(3600, messages*36/100/devices) / 60 * 60
	others := devices - 1 - p.Months
	left := messages - p.Deep - p.Months*monthRows - p.Dense*(devices-1)
	if others < 1 || left < others {
		return p, fmt.Errorf("%d messages are too few for a month of %d devices", messages, devices)
	}
	p.Rest = min(left/others, monthRows-1)
	p.Messages = p.Deep + p.Months*monthRows + others*p.Rest + (devices-1)*p.Dense - p.Months*p.Dense/60
	return p, nil
}

// begin is the time of the first message.
func (p *past) begin() time.Time { return p.End.Add(-month) }

// dense is when all begin to send each second, and sparse is an hour before it in which they sent each minute, or what
// there is of it.
func (p *past) dense() time.Time { return p.End.Add(-time.Duration(p.Dense) * time.Second) }

func (p *past) sparse() (from, to time.Time) {
	to = p.dense()
	return to.Add(-min(time.Hour, time.Duration(p.Rest)*time.Minute)), to
}

// month gives the device i of those with a whole month.
func (p *past) month(i int) signalbox.DeviceID { return signalbox.DeviceID(2 + i%p.Months) }

// each calls visit for every message, second by second: the index of the device, from 0, and its time, which grows for
// each device.
func (p *past) each(visit func(device int, micros int64) (more bool)) {
	var jitter rand.PCG
	jitter.Seed(3, 4)
	at := func(device int, second int64) int64 {
		phase := int64(device) * 7919 % 900_000
		return second*secondMicros + phase + int64(jitter.Uint64()%20_000)
	}
	begin, end := p.begin().Unix(), p.End.Unix()
	dense := end - int64(p.Dense)
	rest := dense - 60*int64(p.Rest)
	seconds := end - begin
	for s := begin; s < end; s++ {
		done := s - begin
		first, last := done*int64(p.Deep)/seconds, (done+1)*int64(p.Deep)/seconds
		for i := first; i < last; i++ {
			step := secondMicros / (last - first)
			if !visit(0, s*secondMicros+(i-first)*step+int64(jitter.Uint64()%uint64(step))) {
				return
			}
		}
		for i := 1; i <= p.Months; i++ {
			if s%60 == int64(i%60) && !visit(i, at(i, s)) {
				return
			}
		}
		switch {
		case s >= dense:
			for i := 1; i < p.Devices; i++ {
				if i <= p.Months && s%60 == int64(i%60) {
					continue // has sent
				}
				if !visit(i, at(i, s)) {
					return
				}
			}
		case s >= rest:
			first := 1 + p.Months
			first += int((s%60 - int64(first%60) + 60) % 60)
			for i := first; i < p.Devices; i += 60 {
				if !visit(i, at(i, s)) {
					return
				}
			}
		}
	}
}

// tenth is the time before which a tenth of the messages lies.
func (p *past) tenth() time.Time {
	n, cut := 0, int64(0)
	p.each(func(_ int, micros int64) bool {
		n++
		cut = micros
		return n < p.Messages/10
	})
	return time.UnixMicro(cut)
}
