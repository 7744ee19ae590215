package cli

import (
	"bufio"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/client"
	"signalbox/internal/wire"
)

const (
	// printerSample is how many messages are looked at for the widths of columns.
	printerSample = 200
	// momentLayout is a time for people, local, to the millisecond.
	momentLayout = "2006-01-02 15:04:05.000"
	// sparkWidth is how wide a sparkline is at most, in columns.
	sparkWidth = 60
)

// printer prints messages for people: name=value, or a column a field where fields were
// named. Columns are as wide as the first messages need; memory does not grow.
type printer struct {
	out      *bufio.Writer
	paint    paint
	fields   []string
	many     bool // devices
	protocol signalbox.Protocol
	// line prints a message that needs no columns.
	line  func(device string, m signalbox.Telemetry) error
	count int

	sample [][]string // rows that wait for the widths
	widths []int      // nil: not known yet
	right  []bool     // columns of numbers
	wide   int        // of the column of devices, without --fields
}

func (h *history) newPrinter(out *bufio.Writer, many bool) *printer {
	p := &printer{out: out, paint: h.paint(), fields: h.flags.fields, many: many, wide: deviceColumn}
	if len(p.fields) == 0 {
		p.line = p.plain
	}
	return p
}

// plain prints a message on a line.
func (p *printer) plain(device string, m signalbox.Telemetry) error {
	name := ""
	if p.many {
		p.wide = max(p.wide, width(device))
		name = padded(clean(device), p.wide) + "  "
	}
	_, err := fmt.Fprintf(p.out, "%s  %s%s\n", p.paint.dim(m.Time.Local().Format(momentLayout)), name, p.paint.fieldsText(m.Object, envelopeOf(p.protocol, m.Object, m.Time)))
	return err
}

// message prints one message.
func (p *printer) message(device string, m signalbox.Telemetry) error {
	p.count++
	if p.line != nil {
		return p.line(device, m)
	}
	row := []string{m.Time.Local().Format(momentLayout)}
	if p.many {
		row = append(row, clean(device))
	}
	for _, cell := range cellsOf(m.Object, p.fields, true) {
		row = append(row, strings.ReplaceAll(clean(cell), "\n", " "))
	}
	if p.widths != nil {
		return p.row(row)
	}
	if p.sample = append(p.sample, row); len(p.sample) < printerSample {
		return nil
	}
	return p.settle()
}

// settle finds the widths and prints what has waited for them.
func (p *printer) settle() error {
	head := []string{"TIME"}
	if p.many {
		head = append(head, "DEVICE")
	}
	names := len(head)
	for _, f := range p.fields {
		head = append(head, strings.ReplaceAll(clean(f), "\n", " "))
	}
	p.widths, p.right = make([]int, len(head)), make([]bool, len(head))
	for i, h := range head {
		p.widths[i] = width(h)
		p.right[i] = i >= names
	}
	for _, row := range p.sample {
		for i, cell := range row {
			p.widths[i] = max(p.widths[i], width(cell))
			if _, err := strconv.ParseFloat(cell, 64); err != nil && cell != "" {
				p.right[i] = false
			}
		}
	}
	if _, err := p.out.WriteString(p.paint.bold(p.aligned(head)) + "\n"); err != nil {
		return err
	}
	for _, row := range p.sample {
		if err := p.row(row); err != nil {
			return err
		}
	}
	p.sample = nil
	return nil
}

func (p *printer) row(cells []string) error {
	_, err := p.out.WriteString(p.aligned(cells) + "\n")
	return err
}

// aligned joins cells to a line, numbers to the right.
func (p *printer) aligned(cells []string) string {
	var b strings.Builder
	for i, cell := range cells {
		if i > 0 {
			b.WriteString("  ")
		}
		switch gap := strings.Repeat(" ", max(p.widths[i]-width(cell), 0)); {
		case p.right[i]:
			b.WriteString(gap + cell)
		case i == len(cells)-1:
			b.WriteString(cell)
		default:
			b.WriteString(cell + gap)
		}
	}
	return strings.TrimRight(b.String(), " ")
}

// end prints what still waits.
func (p *printer) end() error {
	if len(p.sample) > 0 {
		if err := p.settle(); err != nil {
			return err
		}
	}
	return p.out.Flush()
}

// cellsOf gives the values of fields. chosen says that the hub was asked for these alone, and
// gave them under the names they were asked for.
func cellsOf(object []byte, fields []string, chosen bool) []string {
	cells := make([]string, len(fields))
	if !chosen {
		values := make(map[string]string)
		for _, f := range fieldsOf(object) {
			values[f.name] = f.value
		}
		for i, f := range fields {
			cells[i] = values[f]
		}
		return cells
	}
	values := make(map[string]string, len(fields))
	gjson.ParseBytes(object).ForEach(func(key, value gjson.Result) bool {
		values[key.Str] = wire.Spelled(value)
		return true
	})
	for i, f := range fields {
		cells[i] = values[f]
	}
	return cells
}

// bucketsTable prints for each field a line that shows its course, and a table.
func (h *history) bucketsTable(b *client.Buckets) error {
	paint := h.paint()
	for i := range b.Series {
		s := &b.Series[i]
		if i > 0 {
			if err := h.printf("\n"); err != nil {
				return err
			}
		}
		name := paint.cyan(strings.ReplaceAll(clean(s.Field), "\n", " "))
		if len(s.Buckets) == 0 {
			if err := h.printf("%s  no numbers in that time\n", name); err != nil {
				return err
			}
			continue
		}
		if err := h.printf("%s  %s  %s\n", name, sparkline(b, s, sparkWidth), paint.dim("buckets of "+widthText(b.Width()))); err != nil {
			return err
		}
		if err := h.bucketRows(b, s, paint); err != nil {
			return err
		}
	}
	return nil
}

// bucketRows prints the buckets of a field, the numbers to the right.
func (h *history) bucketRows(b *client.Buckets, s *client.Series, paint paint) error {
	layout := "2006-01-02 15:04:05"
	if b.WidthMs%1000 != 0 || b.From.Nanosecond() != 0 {
		layout = momentLayout
	}
	rows := [][]string{{"START", "COUNT", "MIN", "AVG", "MAX", "LAST"}}
	for i := range s.Buckets {
		k := &s.Buckets[i]
		rows = append(rows, []string{k.Start.Local().Format(layout), strconv.FormatInt(k.Count, 10), numberText(k.Min), numberText(k.Avg), numberText(k.Max), numberText(k.Last)})
	}
	p := &printer{widths: make([]int, len(rows[0])), right: []bool{false, true, true, true, true, true}}
	for _, row := range rows {
		for i, cell := range row {
			p.widths[i] = max(p.widths[i], width(cell))
		}
	}
	var text strings.Builder
	for i, row := range rows {
		line := p.aligned(row)
		if i == 0 {
			line = paint.bold(line)
		}
		text.WriteString(line + "\n")
	}
	return h.printf("%s", text.String())
}

// numberText writes a number with up to six digits that count.
func numberText(v *float64) string {
	if v == nil {
		return "∞"
	}
	if abs := math.Abs(*v); abs >= 1e6 && abs < 1e15 {
		return strconv.FormatFloat(*v, 'f', 0, 64)
	}
	return strconv.FormatFloat(*v, 'g', 6, 64)
}

// widthText writes a length of time without the zeros of Go's: 1h, 24h, 90m.
func widthText(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// sparkline draws the means of a field over the whole time, a blank where there is none. Where
// there are more buckets than columns, neighbours share one.
func sparkline(b *client.Buckets, s *client.Series, columns int) string {
	bars := []rune("▁▂▃▄▅▆▇█")
	span := b.To.Sub(b.From).Milliseconds()
	n := 1
	if b.WidthMs > 0 {
		n = int(min((span+b.WidthMs-1)/b.WidthMs, int64(columns)))
	}
	sums, counts := make([]float64, n), make([]float64, n)
	low, high := math.Inf(1), math.Inf(-1)
	for i := range s.Buckets {
		k := &s.Buckets[i]
		if k.Avg == nil {
			continue
		}
		at := int((k.Start.Sub(b.From).Milliseconds() + b.WidthMs/2) * int64(n) / max(span, 1))
		at = min(max(at, 0), n-1)
		sums[at] += *k.Avg
		counts[at]++
	}
	for i, c := range counts {
		if c > 0 {
			sums[i] /= c
			low, high = min(low, sums[i]), max(high, sums[i])
		}
	}
	var line strings.Builder
	for i, c := range counts {
		switch {
		case c == 0:
			line.WriteByte(' ')
		case high == low:
			line.WriteRune(bars[len(bars)/2])
		default:
			line.WriteRune(bars[int((sums[i]-low)/(high-low)*float64(len(bars)-1)+0.5)])
		}
	}
	return line.String()
}
