// Package history is what a farm was like over time: readings of its queues and machines, one for
// every five minutes, kept by the hour in few bytes, and joined into longer steps for those who ask.
//
// The coordinator's loop has a [Book], in which it notes what ends, and which it has write a reading
// when the time has come. The ledger keeps the [Hour] of each. [Steps] makes of hours what clients are
// told. Nothing here waits, and the time is an argument.
package history

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"lighter/internal/api"
)

const (
	// Interval is the time that a reading is about.
	Interval = 5 * time.Minute
	// Keep is for how long hours are kept: two months, so that one can be compared with the one before.
	Keep = 62 * 24 * time.Hour

	perHour = int(time.Hour / Interval)
	// maxSeries bounds the systems and the machines of an hour; more are left out.
	maxSeries = 5000
	// unitOfUse is short enough for a picture, and lets most differences take a byte.
	unitOfUse = 5 * time.Second
	// maxValue bounds all values.
	maxValue = 1 << 40
	// maxNumber is that of an hour some ten thousand years from now.
	maxNumber = 1e8
	// maxCovered bounds the seconds of a reading. It may have a few more than an interval, since it ends
	// when the loop comes to it.
	maxCovered = 2 * int64(Interval/time.Second)
)

// Hour has the readings of one hour, as columns: what follows each other there is much alike.
type Hour struct {
	// Number is that of the hour since 1970.
	Number int64
	// Parts says which intervals of the hour there are readings of, from 0, in order. Of the others nothing
	// is known.
	Parts []int
	// Covered is of how many seconds each reading is: fewer than an interval's if the coordinator was
	// started or ended then.
	Covered []int64
	// Systems and Machines are in the order of their names. What was not there at a reading has zeros.
	Systems, Machines []Series
}

// Series is what was read of one system or machine.
type Series struct {
	Name    string
	Columns [][]int64 // by what they are, and each with a value for every reading
}

// The columns of a system: builds at the end of the reading, and builds that ended.
const (
	queued    = iota
	waiting   // for other builds
	running   // on machines
	succeeded // were made
	failed    // themselves
	other     // canceled, failed because of others, were there already
	systemColumns
)

// The columns of a machine.
const (
	slots = iota // at the end of the reading; 0 if it was not up, or unfit
	used         // time of slots, in unitOfUse
	load         // for each of its cores, in hundredths, plus 1; 0 is not known
	machineColumns
)

// HourOf returns the number of the hour that a time is in.
func HourOf(t time.Time) int64 { return floor(t.Unix(), int64(time.Hour/time.Second)) }

func partOf(t time.Time) int {
	return int(t.Unix()/int64(Interval/time.Second)-HourOf(t)*int64(perHour)) % perHour
}

func floor(n, by int64) int64 {
	if n%by < 0 {
		return n/by - 1
	}
	return n / by
}

// reading returns the place of the reading of a part. There is one from then on.
func (h *Hour) reading(part int) int {
	i, found := slices.BinarySearch(h.Parts, part)
	if found {
		return i
	}
	h.Parts, h.Covered = slices.Insert(h.Parts, i, part), slices.Insert(h.Covered, i, 0)
	for _, list := range [][]Series{h.Systems, h.Machines} {
		for _, s := range list {
			for c := range s.Columns {
				s.Columns[c] = slices.Insert(s.Columns[c], i, 0)
			}
		}
	}
	return i
}

// series returns those of a name. There are some from then on, unless the name is none, or there are too
// many.
func (h *Hour) series(list *[]Series, name string, columns int) *Series {
	i, found := slices.BinarySearchFunc(*list, name, func(s Series, name string) int { return cmp.Compare(s.Name, name) })
	if found {
		return &(*list)[i]
	}
	s := newSeries(name, columns, len(h.Parts))
	if len(*list) < maxSeries && validName(name) == nil {
		*list = slices.Insert(*list, i, s)
		return &(*list)[i]
	}
	return &s // which nobody keeps
}

func newSeries(name string, columns, readings int) Series {
	s := Series{name, make([][]int64, columns)}
	values := make([]int64, columns*readings)
	for c := range s.Columns {
		s.Columns[c] = values[c*readings : (c+1)*readings : (c+1)*readings]
	}
	return s
}

func (h *Hour) clone() *Hour {
	c := &Hour{Number: h.Number, Parts: slices.Clone(h.Parts), Covered: slices.Clone(h.Covered), Systems: slices.Clone(h.Systems), Machines: slices.Clone(h.Machines)}
	for _, list := range [][]Series{c.Systems, c.Machines} {
		for i, s := range list {
			list[i] = newSeries(s.Name, len(s.Columns), len(h.Parts))
			for column, values := range s.Columns {
				copy(list[i].Columns[column], values)
			}
		}
	}
	return c
}

// Valid says what is wrong with an hour, or nil.
func (h *Hour) Valid() error {
	if h.Number < 0 || h.Number > maxNumber {
		return fmt.Errorf("hour %d since 1970", h.Number)
	}
	if n := len(h.Parts); n == 0 || n > perHour || len(h.Covered) != n {
		return fmt.Errorf("%d readings, %d times", n, len(h.Covered))
	}
	for i, part := range h.Parts {
		if part < 0 || part >= perHour || i > 0 && part <= h.Parts[i-1] {
			return fmt.Errorf("parts %v of the hour", h.Parts)
		}
		if c := h.Covered[i]; c < 1 || c > maxCovered {
			return fmt.Errorf("a reading of %d seconds", c)
		}
	}
	return errors.Join(h.validSeries(h.Systems, systemColumns), h.validSeries(h.Machines, machineColumns))
}

func (h *Hour) validSeries(list []Series, columns int) error {
	if len(list) > maxSeries {
		return fmt.Errorf("%d series, at most %d are taken", len(list), maxSeries)
	}
	for i, s := range list {
		if err := validName(s.Name); err != nil {
			return err
		}
		if i > 0 && s.Name <= list[i-1].Name || len(s.Columns) != columns {
			return fmt.Errorf("series %.40q is not in order, or has %d columns", s.Name, len(s.Columns))
		}
		for _, values := range s.Columns {
			if len(values) != len(h.Parts) || slices.ContainsFunc(values, func(v int64) bool { return v < 0 || v > maxValue }) {
				return fmt.Errorf("series %.40q has a wrong value", s.Name)
			}
		}
	}
	return nil
}

func validName(name string) error {
	if name == "" || len(name) > api.MaxName || !utf8.ValidString(name) {
		return fmt.Errorf("name %.40q: want 1 to %d bytes of UTF-8", name, api.MaxName)
	}
	return nil
}
