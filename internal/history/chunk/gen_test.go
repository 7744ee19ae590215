package chunk_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"signalbox"
	"signalbox/internal/history/chunk"
	"signalbox/internal/wire"
)

// box tells telemetry as in PROTOCOLS A1: every 50th message a servo has moved, every 20th
// a button has changed, every 500th the status.
func box(seed uint64) func(i int) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	servo := [2]int{90, 90}
	button := [2]string{"released", "pressed"}
	status := "работает"
	return func(int) []byte {
		if rng.IntN(50) == 0 {
			servo[rng.IntN(2)] = rng.IntN(19) * 10
		}
		if rng.IntN(20) == 0 {
			b := &button[rng.IntN(2)]
			if *b == "pressed" {
				*b = "released"
			} else {
				*b = "pressed"
			}
		}
		if rng.IntN(500) == 0 {
			status = []string{"работает", "ожидание", "перегрев"}[rng.IntN(3)]
		}
		return fmt.Appendf(nil, `{"type":"telemetry","status":"%s","servo1":%d,"servo2":%d,"button1":"%s","button2":"%s"}`,
			status, servo[0], servo[1], button[0], button[1])
	}
}

// sensor tells readings that wander.
func sensor(seed uint64) func(i int) []byte {
	rng := rand.New(rand.NewPCG(seed, 2))
	temp, hum, pressure := 21.53, 45.2, 1013.25
	return func(i int) []byte {
		temp += rng.NormFloat64() * 0.02
		hum += rng.NormFloat64() * 0.1
		pressure += rng.NormFloat64() * 0.02
		return fmt.Appendf(nil, `{"temp":%.2f,"hum":%.1f,"pressure":%.2f,"rssi":%d,"uptime":%d}`,
			temp, hum, pressure, -61+rng.IntN(7)-3, 12345+i)
	}
}

// rowsOf gives n rows of one of the devices that send a message a second each, at ±5 ms:
// positions and times are as the hub would give them out.
func rowsOf(seed uint64, devices, n int, body func(i int) []byte) []chunk.Row {
	rng := rand.New(rand.NewPCG(seed, 3))
	type event struct {
		at     int64
		device int
	}
	events := make([]event, 0, devices*n)
	for d := range devices {
		phase := rng.Int64N(1_000_000)
		for i := range n {
			events = append(events, event{phase + int64(i)*1_000_000 + rng.Int64N(10_000) - 5_000, d})
		}
	}
	slices.SortFunc(events, func(a, b event) int { return int(a.at - b.at) })
	var rows []chunk.Row
	for i, e := range events {
		if e.device == 0 {
			at := int64(1_732_190_000_000_000) + e.at
			rows = append(rows, chunk.Row{Position: signalbox.Position(7_000_000 + i), Received: at, Time: at, Body: body(len(rows))})
		}
	}
	return rows
}

// oddBodies are bodies that are easily not given back.
func oddBodies() []string {
	return []string{
		`{}`, ` { } `, "{\"a\" : 1 ,\r\n\t\"b\":[ 1, 2 ] }\n", `{"a":{}}`, `{"a":{"b":{"c":[]}}}`,
		`{"a":-0}`, `{"a":-0.0}`, `{"a":0.0}`, `{"a":15.0}`, `{"a":15.00}`, `{"a":15}`, `{"a":1e5}`, `{"a":1E+5}`, `{"a":-1.50e-07}`,
		`{"a":0.000000000000000001}`, `{"a":123456789012345678}`, `{"a":99999999999999999}`, `{"a":100000000000000000}`,
		`{"a":-99999999999999999}`, `{"a":9999999999999999999999}`, `{"a":0.12345678901234567}`, `{"a":1234567890.12345678}`, `{"a":1e999}`,
		`{"a":"90"}`, `{"a":"-0"}`, `{"a":"007"}`, `{"a":"1.50"}`, `{"a":"1e5"}`, `{"a":""}`, `{"a":"\u0041\n\"\\"}`, `{"a":"-"}`, `{"a":"90 "}`,
		`{"a":true,"b":false,"c":null}`, `{"a":null}`, `{"a":[1,{"b":"}"},"]"]}`, `{"a":1,"a":2,"a":{"b":3}}`, `{"\u0061.b":1,"a":{"b":2}}`,
		`{"":1,"":{"":2}}`, `{"a":tru}`, `{"a":01}`, `{"a":1.}`, `{"a":.5}`, `{"a":+1}`, `{"a":1}x`, `{"a":1`, `{"a"}`, `[1]`, `1`, `null`, `true`, `"90"`, `-12.5`, ``,
		"\x00\xff\xfe", `{"a":"` + "\x01" + `"}`, `{"a":"` + "\xff" + `"}`, `{"` + "\xff" + `":1}`, `{"a":1,}`,
		`{"a":` + strings.Repeat("[", 70) + strings.Repeat("]", 70) + `}`, strings.Repeat(`{"a":`, 70) + "1" + strings.Repeat("}", 70),
		`{"a":` + strings.Repeat("[", 63) + strings.Repeat("]", 63) + `}`, `{"a":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`,
		`{"a":` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + `}`, strings.Repeat(`{"a":`, 32) + strings.Repeat("[", 32) + strings.Repeat("]", 32) + strings.Repeat("}", 32),
		`{"a":"` + strings.Repeat("x", 70_000) + `"}`, wide(256), wide(257), wide(40),
	}
}

// wide gives an object with n keys.
func wide(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `%c"k%d":%d`, "{,"[min(i, 1)], i, i*i)
	}
	return b.String() + "}"
}

// rowsFor gives rows with those bodies; times of the device lie up to two minutes back, and none,
// some or all were imported.
func rowsFor(rng *rand.Rand, bodies [][]byte) []chunk.Row {
	rows := make([]chunk.Row, 0, len(bodies))
	p, received := signalbox.Position(rng.Uint64N(1<<40)), int64(1_700_000_000_000_000)
	for _, b := range bodies {
		p += signalbox.Position(1 + rng.Uint64N(2000))
		received += rng.Int64N(2_000_000)
		row := chunk.Row{Position: p, Received: received, Time: received, Body: b}
		if rng.IntN(4) == 0 {
			row.Time -= rng.Int64N(120_000_000)
		}
		rows = append(rows, row)
	}
	markSome(rng, rows)
	return rows
}

// markSome makes none, some or all of the rows imported ones.
func markSome(rng *rand.Rand, rows []chunk.Row) {
	odds := []int{0, 1, 2, 20}[rng.IntN(4)]
	for i := range rows {
		rows[i].Imported = odds > 0 && rng.IntN(odds) == 0
	}
}

func sorted(rows []chunk.Row) []chunk.Row {
	rows = slices.Clone(rows)
	slices.SortFunc(rows, func(a, b chunk.Row) int {
		return cmp.Or(cmp.Compare(a.Time, b.Time), cmp.Compare(a.Position, b.Position))
	})
	return rows
}

// columnCases are ways in which the values of one field go on.
func columnCases() map[string]func(rng *rand.Rand, i int) string {
	return map[string]func(rng *rand.Rand, i int) string{
		"constant":     func(*rand.Rand, int) string { return "90" },
		"counter":      func(_ *rand.Rand, i int) string { return fmt.Sprint(i * 3) },
		"fixed":        func(rng *rand.Rand, _ int) string { return fmt.Sprintf("%.2f", rng.NormFloat64()*50) },
		"shortest":     func(rng *rand.Rand, _ int) string { return fmt.Sprint(float64(rng.IntN(2000)) / 100) },
		"python":       func(rng *rand.Rand, _ int) string { return pythonFloat(float64(rng.IntN(2000)) / 100) },
		"mixed scales": func(rng *rand.Rand, _ int) string { return fmt.Sprintf("%.*f", rng.IntN(4), rng.NormFloat64()*5) },
		"too far apart": func(_ *rand.Rand, i int) string {
			return []string{"99999999999999999", "0.00000000000000001", "5"}[i%3]
		},
		"full floats": func(rng *rand.Rand, _ int) string { return fmt.Sprint(rng.Float64()) },
		"exponents":   func(rng *rand.Rand, _ int) string { return fmt.Sprintf("%e", rng.NormFloat64()) },
		"beyond":      func(_ *rand.Rand, i int) string { return []string{"1e999", "-1", "2.5"}[i%3] },
		"few":         func(rng *rand.Rand, _ int) string { return []string{"0", "1000000", "-5"}[rng.IntN(3)] },
		"outliers": func(rng *rand.Rand, _ int) string {
			return fmt.Sprint(rng.IntN(9) + rng.IntN(50)/49*1_000_000_000*(1-rng.IntN(3)))
		},
		"quoted":    func(rng *rand.Rand, i int) string { return fmt.Sprintf(`"%d"`, i+rng.IntN(3)) },
		"words":     func(rng *rand.Rand, _ int) string { return []string{"true", "false", "null", `"true"`}[rng.IntN(4)] },
		"tokens":    func(rng *rand.Rand, _ int) string { return fmt.Sprintf(`"%x"`, rng.Uint64()) },
		"arrays":    func(rng *rand.Rand, _ int) string { return fmt.Sprintf(`[%d, %d]`, rng.IntN(3), rng.IntN(100)) },
		"with null": func(rng *rand.Rand, i int) string { return []string{fmt.Sprint(i), "null"}[rng.IntN(8)/7] },
		"of all": func(rng *rand.Rand, i int) string {
			return []string{fmt.Sprint(i), fmt.Sprintf(`"%d"`, i), "null", fmt.Sprintf(`"x%d"`, i)}[rng.IntN(4)]
		},
		"extremes": func(_ *rand.Rand, i int) string { return []string{"99999999999999999", "-99999999999999999"}[i%2] },
		"wide": func(rng *rand.Rand, _ int) string {
			return fmt.Sprint(rng.Int64N(199999999999999998) - 99999999999999999)
		},
		"300 words": func(rng *rand.Rand, _ int) string { return fmt.Sprintf(`"w%d"`, rng.IntN(300)) },
	}
}

func pythonFloat(f float64) string { return string(wire.AppendPyFloat(nil, f)) }
