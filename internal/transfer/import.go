package transfer

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"time"

	"signalbox"
	"signalbox/internal/history"
)

// Archive is history as an import uses it; history.Log is it.
type Archive interface {
	Page(ctx context.Context, q history.Query) ([]signalbox.Telemetry, error)
	Append(e *signalbox.Entry, u history.Urgency) error
	Wait(ctx context.Context, p signalbox.Position) error
	Committed() signalbox.Position
}

// Target is where an import goes.
type Target struct {
	Archive Archive
	// Find gives a device's number.
	Find func(name string) (signalbox.DeviceID, bool)
	// Check says whether a device of that name may be made; nil: devices that do not exist are
	// refused. Create makes them, all or none.
	Check  func(name string) error
	Create func(ctx context.Context, names []string) error
	// Dir is where temporary files go; empty: the system's place for them.
	Dir string
	// Progress, if not nil, hears now and then how many rows were read and how many of them
	// were compared with history.
	Progress func(read, compared int64)
}

// Report is what became of an import. Of the rows that were read, each was added, there
// already, or refused.
type Report struct {
	Format  Format `json:"format" enum:"csv,ndjson,parquet,dump"`
	Read    int64  `json:"read" doc:"Rows of the file."`
	Added   int64  `json:"added"`
	Already int64  `json:"already" doc:"Rows that history had: same device, time and object."`
	Refused int64  `json:"refused"`
	// Refusals are the first maxRefusals of them.
	Refusals []Refusal `json:"refusals" nullable:"false" doc:"The first 1,000 rows that were refused."`
	Created  []string  `json:"created,omitempty" doc:"Devices that were made."`
	Zone     string    `json:"zone,omitempty" doc:"Where times without a zone are from; absent when all times named one."`
	Shifts   []Shift   `json:"shifts,omitempty" doc:"Changes of the zone's clocks that made times doubtful."`
}

const (
	maxRefusals = 1000
	// MaxCreated bounds the devices that one import makes.
	MaxCreated = 200_000
	// progressEvery is after how many rows Progress hears again.
	progressEvery = 10_000
)

func (r *Report) refuse(why *Refusal) {
	r.Refused++
	if len(r.Refusals) < maxRefusals {
		why.Device = cutShort(why.Device)
		r.Refusals = append(r.Refusals, *why)
	}
}

// Import reads src to its end, sorts it, and adds what history has not. It returns when all
// of it is on disk. With an error from reading, nothing was imported; with a later one, a part
// may have been, and doing it again completes it.
func Import(ctx context.Context, src *Source, t Target) (*Report, error) {
	im := &importing{t: t, report: &Report{Format: src.Format, Refusals: []Refusal{}}, numbers: map[string]int{}, sorter: newSorter(t.Dir)}
	err := im.run(ctx, src)
	if closed := im.sorter.close(); err == nil && closed != nil {
		err = noSpace(closed)
	}
	return im.report, err
}

// importing is one import under way.
type importing struct {
	t       Target
	report  *Report
	sorter  *sorter
	numbers map[string]int // of devices, -1: refused
	names   []string
	// in the second part
	comparing
	last signalbox.Position // appended
	flow int                // bytes appended since the log was last waited for
	wait signalbox.Position // what to wait for then
}

func (im *importing) run(ctx context.Context, src *Source) error {
	if err := im.read(ctx, src); err != nil {
		return err
	}
	im.report.Zone, im.report.Shifts = src.Zone(), src.Shifts()
	ids, err := im.devices(ctx)
	if err != nil {
		return err
	}
	next, err := im.sorter.sorted(ctx)
	if err != nil {
		return err
	}
	var r record
	for n := int64(1); ; n++ {
		more, err := next(&r)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		there, err := im.known(ctx, im.t.Archive, ids[r.device], &r)
		if err != nil {
			return err
		}
		if there {
			im.report.Already++
		} else if err := im.append(ctx, ids[r.device], &r); err != nil {
			return err
		}
		if im.t.Progress != nil && n%progressEvery == 0 {
			im.t.Progress(im.report.Read, n)
		}
	}
	return im.t.Archive.Wait(ctx, im.last)
}

// read takes all rows into the sorter.
func (im *importing) read(ctx context.Context, src *Source) error {
	var row Row
	for {
		err := src.Next(&row)
		if errors.Is(err, io.EOF) {
			return nil
		}
		why, refused := errors.AsType[*Refusal](err)
		if err != nil && !refused {
			return err
		}
		if im.report.Read++; im.report.Read%progressEvery == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			if im.t.Progress != nil {
				im.t.Progress(im.report.Read, 0)
			}
		}
		if !refused {
			why = im.check(&row)
		}
		if why != nil {
			im.report.refuse(why)
			continue
		}
		if err := im.sorter.add(ctx, &record{im.numbers[row.Device], row.Time, row.Object}); err != nil {
			return err
		}
	}
}

// check says why a row cannot be taken, nil if it can.
func (im *importing) check(row *Row) *Refusal {
	switch {
	case row.Time <= 0:
		return refuse(row.Line, row.Device, "the time lies before 1970, where history begins")
	case row.Time > time.Now().UnixMicro():
		return refuse(row.Line, row.Device, "the time %s lies in the future of the hub's clock", appendTime(nil, row.Time))
	}
	if replayed(row.Object) {
		return refuse(row.Line, row.Device, replayedReason)
	}
	n, known := im.numbers[row.Device]
	if !known {
		var why *Refusal
		if n, why = im.number(row); why != nil {
			return why
		}
	}
	if n < 0 {
		return im.unknown(row)
	}
	return nil
}

// number gives a device that is named for the first time its number.
func (im *importing) number(row *Row) (int, *Refusal) {
	if _, exists := im.t.Find(row.Device); !exists {
		if im.t.Check == nil {
			return -1, nil // names that do not exist are not kept: there may be any number
		}
		if err := im.t.Check(row.Device); err != nil {
			return -1, refuse(row.Line, row.Device, "%s", err)
		}
		if len(im.report.Created) == MaxCreated {
			return -1, refuse(row.Line, row.Device, "more than %d devices would be made; make them before", MaxCreated)
		}
		im.report.Created = append(im.report.Created, row.Device)
	}
	n := len(im.names)
	im.numbers[row.Device] = n
	im.names = append(im.names, row.Device)
	return n, nil
}

func (im *importing) unknown(row *Row) *Refusal {
	return refuse(row.Line, row.Device, "there is no device %q; add it before, or ask for missing devices to be made (create)", cutShort(row.Device))
}

// devices makes those that are missing and gives the numbers that all have in the hub.
func (im *importing) devices(ctx context.Context) ([]signalbox.DeviceID, error) {
	if len(im.report.Created) > 0 {
		if err := im.t.Create(ctx, im.report.Created); err != nil {
			return nil, err
		}
	}
	ids := make([]signalbox.DeviceID, len(im.names))
	for i, name := range im.names {
		id, ok := im.t.Find(name)
		if !ok {
			return nil, signalbox.Errorf(signalbox.KindConflict, "device_removed", "the device %s was removed while the import was running; nothing was imported", name)
		}
		ids[i] = id
	}
	im.numbers = nil
	return ids, nil
}

// flowBytes is how much is appended before a part of it must be on disk: devices need the
// log's room too.
const flowBytes = 4 << 20

// append adds a message to the log.
func (im *importing) append(ctx context.Context, id signalbox.DeviceID, r *record) error {
	e := signalbox.Entry{Device: id, Kind: signalbox.EntryImported, TimeMicros: r.time, Body: r.object}
	for {
		err := im.t.Archive.Append(&e, history.Soon)
		if err == nil {
			break
		}
		if !errors.Is(err, history.ErrFull) {
			return err
		}
		// Others fill the log: wait until some of it is on disk.
		if err := im.t.Archive.Wait(ctx, im.t.Archive.Committed()+1); err != nil {
			return err
		}
	}
	im.report.Added++
	im.last = e.Position
	if im.flow += len(r.object) + refBytes; im.flow < flowBytes {
		return nil
	}
	im.flow = 0
	before := im.wait
	im.wait = im.last
	return im.t.Archive.Wait(ctx, before)
}

// comparing goes through what history has of a device, beside the sorted messages of an
// import.
type comparing struct {
	device signalbox.DeviceID
	page   []signalbox.Telemetry
	at     int   // in page
	ended  bool  // nothing is behind the page
	limit  int   // of the next page
	time   int64 // of the messages in have
	have   map[[sha256.Size]byte]int
}

const (
	// A page has firstPage messages; the next ones have as many as fit pageBytes, up to maxPage.
	firstPage = 64
	maxPage   = 1024
	pageBytes = 4 << 20
)

// known says whether history had the message before the import, and counts it as met. Messages
// must come by device and time, and all messages of a time must have been asked for before one
// of the next is appended to that device.
func (c *comparing) known(ctx context.Context, a Archive, id signalbox.DeviceID, r *record) (bool, error) {
	if id != c.device {
		*c = comparing{device: id, time: -1, limit: firstPage, have: c.have}
		if c.have == nil {
			c.have = map[[sha256.Size]byte]int{}
		}
	}
	if r.time != c.time {
		if err := c.gather(ctx, a, r.time); err != nil {
			return false, err
		}
	}
	if len(c.have) == 0 {
		return false, nil
	}
	sum := sha256.Sum256(r.object)
	n := c.have[sum]
	switch n {
	case 0:
		return false, nil
	case 1:
		delete(c.have, sum)
	default:
		c.have[sum] = n - 1
	}
	return true, nil
}

// gather counts the messages that history has of a time. It reads to the end of that time
// before anything is appended to it, so it never meets what the import itself adds.
func (c *comparing) gather(ctx context.Context, a Archive, at int64) error {
	c.time = at
	clear(c.have)
	for {
		for ; c.at < len(c.page); c.at++ {
			m := &c.page[c.at]
			switch t := m.Time.UnixMicro(); {
			case t < at:
			case t == at:
				c.have[sha256.Sum256(m.Object)]++
			default:
				return nil
			}
		}
		if c.ended {
			return nil
		}
		q := history.Query{Device: c.device, Order: history.OldestFirst, From: time.UnixMicro(at), Limit: c.limit}
		if n := len(c.page); n > 0 && c.page[n-1].Time.UnixMicro() >= at {
			q.After = history.CursorOf(&c.page[n-1])
		}
		page, err := a.Page(ctx, q)
		if err != nil {
			return err
		}
		longest := 1
		for i := range page {
			longest = max(longest, len(page[i].Object))
		}
		c.page, c.at, c.ended = page, 0, len(page) < c.limit
		c.limit = min(max(pageBytes/longest, 16), maxPage, 4*c.limit)
	}
}
