package sim

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strconv"
)

// board is what a device controls and measures.
type board interface {
	// appendReading appends the fields of one reading, each with a comma before it.
	appendReading(b []byte) []byte
	// do carries out a command and gives its result as JSON; value nil means none was sent.
	do(command string, value *string) (result []byte, err error)
}

func newBoard(kind Kind, rng *rand.Rand) board {
	if kind == Station {
		return &station{rng: rng, temperature: 215 + rng.IntN(40), humidity: 400 + rng.IntN(200)}
	}
	return &box{rng: rng, servo: [2]string{"90", "90"}}
}

// box has two servos and two buttons, as the original's boxes.
type box struct {
	rng    *rand.Rand
	servo  [2]string // as sent, 0 to 180
	button [2]bool
}

func (x *box) appendReading(b []byte) []byte {
	b = append(b, `,"status":"работает"`...)
	for i, angle := range x.servo {
		b = append(strconv.AppendInt(append(b, `,"servo`...), int64(i+1), 10), `":`...)
		b = append(b, angle...)
	}
	for i := range x.button {
		if x.rng.IntN(10) == 0 {
			x.button[i] = !x.button[i]
		}
		word := "released"
		if x.button[i] {
			word = "pressed"
		}
		b = fmt.Appendf(b, `,"button%d":"%s"`, i+1, word)
	}
	return b
}

func (x *box) do(command string, value *string) ([]byte, error) {
	switch command {
	case "servo1", "servo2":
		if value == nil {
			return nil, fmt.Errorf("the command %s needs an angle from 0 to 180", command)
		}
		angle, err := strconv.Atoi(*value)
		if err != nil || angle < 0 || angle > 180 {
			return nil, fmt.Errorf("%s cannot turn to %q; allowed are whole angles from 0 to 180", command, *value)
		}
		x.servo[command[5]-'1'] = strconv.Itoa(angle)
		return []byte(strconv.Itoa(angle)), nil
	case "restart":
		x.servo = [2]string{"90", "90"}
		return []byte("null"), nil
	default:
		return nil, fmt.Errorf("this box does not know the command %q; it knows servo1, servo2 and restart", command)
	}
}

// station measures the air and has a relay.
type station struct {
	rng                   *rand.Rand
	temperature, humidity int // tenths of °C and of %
	relay                 bool
}

func (s *station) appendReading(b []byte) []byte {
	s.temperature += s.rng.IntN(3) - 1
	s.humidity = min(max(s.humidity+s.rng.IntN(5)-2, 0), 1000)
	return fmt.Appendf(b, `,"status":"ok","temperature":%.1f,"humidity":%.1f,"relay":%t`,
		float64(s.temperature)/10, float64(s.humidity)/10, s.relay)
}

func (s *station) do(command string, value *string) ([]byte, error) {
	switch command {
	case "relay":
		if value == nil || (*value != "true" && *value != "false" && *value != "on" && *value != "off") {
			return nil, fmt.Errorf("the command relay needs one of true, false, on and off")
		}
		s.relay = *value == "true" || *value == "on"
		return strconv.AppendBool(nil, s.relay), nil
	case "restart":
		s.relay = false
		return []byte("null"), nil
	default:
		return nil, fmt.Errorf("this station does not know the command %q; it knows relay and restart", command)
	}
}

// hashName spreads names over 64 bits.
func hashName(name string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // a hash takes everything
	return h.Sum64()
}
