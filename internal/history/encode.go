package history

import (
	"encoding/binary"
	"errors"
)

// version is the first byte of what Encode makes.
const version = 1

// MaxHour bounds an encoded hour, in bytes.
const MaxHour = 4 << 20

// Encode returns an hour, without its number, in few bytes: a number for each value is that of its
// difference from the one before, and a name has the bytes in which it differs from the one before. It
// returns an error if the hour is not valid.
//
//	version, 1 byte
//	readings: their number, and of each how many parts come after the one before, and its seconds
//	systems, then machines: their number, and of each its name and its columns
//	name: how many bytes it shares with the one before, how many more it has, those
//	column: twice its first value, plus 1 if all are the same; else the differences between all others
//
// All numbers are unsigned varints, differences zigzag.
func (h *Hour) Encode() ([]byte, error) {
	if err := h.Valid(); err != nil {
		return nil, err
	}
	b := binary.AppendUvarint([]byte{version}, uint64(len(h.Parts)))
	before := -1
	for i, part := range h.Parts {
		b = binary.AppendUvarint(b, uint64(part-before-1)) // #nosec G115 -- they are in order
		b = binary.AppendUvarint(b, uint64(h.Covered[i]))  // #nosec G115 -- checked by Valid
		before = part
	}
	b = appendSeries(appendSeries(b, h.Systems), h.Machines)
	if len(b) > MaxHour {
		return nil, errors.New("an hour of too many names")
	}
	return b, nil
}

func appendSeries(b []byte, list []Series) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	before := ""
	for _, s := range list {
		shared := 0
		for shared < min(len(before), len(s.Name)) && before[shared] == s.Name[shared] {
			shared++
		}
		b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(shared)), uint64(len(s.Name)-shared)) // #nosec G115 -- shared is a part of it
		b = append(b, s.Name[shared:]...)
		before = s.Name
		for _, values := range s.Columns {
			b = appendColumn(b, values)
		}
	}
	return b
}

func appendColumn(b []byte, values []int64) []byte {
	first := 2 * uint64(values[0]) // #nosec G115 -- checked by Valid
	same := true
	for _, v := range values[1:] {
		same = same && v == values[0]
	}
	if same {
		return binary.AppendUvarint(b, first+1)
	}
	b = binary.AppendUvarint(b, first)
	for i, v := range values[1:] {
		b = binary.AppendVarint(b, v-values[i])
	}
	return b
}

// Decode is the opposite of Encode. It accepts only what is valid.
func Decode(number int64, value []byte) (*Hour, error) {
	d := decoder{left: value}
	if v := d.take(1); len(v) != 1 || v[0] != version {
		return nil, errors.New("it has another version")
	}
	h := &Hour{Number: number}
	n := d.uvarint(uint64(perHour))
	before := -1
	for range n {
		before += 1 + int(d.uvarint(uint64(perHour))) // #nosec G115 -- at most perHour
		h.Parts = append(h.Parts, before)
		h.Covered = append(h.Covered, int64(d.uvarint(uint64(maxCovered)))) // #nosec G115 -- at most maxCovered
	}
	h.Systems = d.series(systemColumns, len(h.Parts))
	h.Machines = d.series(machineColumns, len(h.Parts))
	if d.failed || len(d.left) > 0 {
		return nil, errors.New("it is cut off, or has too much")
	}
	return h, h.Valid()
}

// decoder reads numbers until there is something wrong; then it has failed, and all it reads is 0.
type decoder struct {
	left   []byte
	failed bool
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.left)) {
		d.failed, n = true, 0
	}
	taken := d.left[:n]
	d.left = d.left[n:]
	return taken
}

func (d *decoder) uvarint(most uint64) uint64 {
	v, n := binary.Uvarint(d.left)
	if d.failed || n <= 0 || v > most {
		d.failed = true
		return 0
	}
	d.left = d.left[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.left)
	if d.failed || n <= 0 || v > maxValue || v < -maxValue {
		d.failed = true
		return 0
	}
	d.left = d.left[n:]
	return v
}

// series reads series. Each takes several bytes, so what there is memory for is bounded by what was read.
func (d *decoder) series(columns, readings int) (list []Series) {
	n := d.uvarint(maxSeries)
	if n == 0 || readings == 0 || n*uint64(2+columns) > uint64(len(d.left)) { // #nosec G115 -- a small number
		d.failed = d.failed || n > 0
		return nil
	}
	list = make([]Series, 0, n)
	before := ""
	for range n {
		shared := d.uvarint(uint64(len(before)))
		s := newSeries(before[:shared]+string(d.take(d.uvarint(MaxHour))), columns, readings)
		for _, values := range s.Columns {
			d.column(values)
		}
		if d.failed {
			return nil
		}
		list = append(list, s)
		before = s.Name
	}
	return list
}

func (d *decoder) column(values []int64) {
	first := d.uvarint(2*maxValue + 1)
	v := int64(first / 2) // #nosec G115 -- at most maxValue
	values[0] = v
	for i := range values[1:] {
		if first%2 == 0 {
			v += d.varint()
		}
		values[i+1] = v
	}
}
