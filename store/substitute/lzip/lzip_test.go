package lzip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
)

// lines returns what the files in testdata are made from.
func lines(n int) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "line %d is followed by line %d\n", i, i*i%10007)
	}
	return b.Bytes()
}

func file(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// anySize is more than any of the dictionaries.
const anySize = 1 << 40

func unpack(data []byte) ([]byte, error) {
	return io.ReadAll(NewReader(bytes.NewReader(data), anySize))
}

func TestReader(t *testing.T) {
	for name, n := range map[string]int{
		"best.lz": 100, "small-dictionary.lz": 5000, "fraction.lz": 5000, "members.lz": 1000, "plzip.lz": 5000, "empty.lz": 0,
	} {
		t.Run(name, func(t *testing.T) {
			data, want := file(t, name), lines(n)
			for _, size := range []int64{anySize, int64(len(want)), 0} {
				if size == 0 && n > 100 {
					continue // the dictionary would be too small for what is there
				}
				got, err := io.ReadAll(NewReader(bytes.NewReader(data), size))
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("size %d: got %d bytes, %v; want %d", size, len(got), err, len(want))
				}
			}
			got, err := io.ReadAll(iotest.OneByteReader(NewReader(iotest.OneByteReader(bytes.NewReader(data)), anySize)))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("byte by byte: got %d bytes, %v; want %d", len(got), err, len(want))
			}
		})
	}
}

func TestReaderContract(t *testing.T) {
	if err := iotest.TestReader(NewReader(bytes.NewReader(file(t, "members.lz")), anySize), lines(1000)); err != nil {
		t.Error(err)
	}
}

func TestEmptyMembers(t *testing.T) {
	empty := file(t, "empty.lz")
	data := bytes.Join([][]byte{empty, file(t, "best.lz"), empty, empty}, nil)
	if got, err := unpack(data); err != nil || !bytes.Equal(got, lines(100)) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

// Members that are much work for little data come to an end.
func TestTooManyMembers(t *testing.T) {
	empty := file(t, "empty.lz")
	empty[5] = 24 // 16 MiB
	got, err := unpack(bytes.Repeat(empty, 64))
	if err == nil || !strings.Contains(err.Error(), "member 64, at byte 2268: too many members with large dictionaries") {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

func TestReaderRefuses(t *testing.T) {
	best := file(t, "best.lz")
	with := func(at int, b ...byte) []byte {
		data := bytes.Clone(best)
		if at < 0 {
			at += len(data)
		}
		copy(data[at:], b)
		return data
	}
	long := func(at int, n int) []byte {
		return with(at, binary.LittleEndian.AppendUint64(nil, uint64(n))...)
	}
	for _, test := range []struct {
		name string
		data []byte
		want string
	}{
		{"nothing", nil, "member 1, at byte 0: unexpected EOF"},
		{"gzip", []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00"), `it starts with "\x1f\x8b\b\x00", not with "LZIP"`},
		{"version 0", with(4, 0), "lzip's version 0 is not supported: want 1"},
		{"tiny dictionary", with(5, 11), "2^11 bytes: want 2^12 to 2^29"},
		{"huge dictionary", with(5, 29), "its dictionary has 536870912 bytes: more than 67108864 are not supported"},
		{"large dictionary", with(5, 27|7<<5), "its dictionary has 75497472 bytes: more than 67108864"},
		{"not LZMA", with(6, 1), "member 1, at byte 0: LZMA: "},
		{"corrupt stream", with(len(best)/2, 0xff, 0xff, 0xff, 0xff), "member 1, at byte 0: "},
		{"CRC", with(-20, best[len(best)-20]^1), "its data has CRC "},
		{"data size", long(-16, len(lines(100))+1), "it has 3244 bytes of data, not 3245"},
		{"member size", long(-8, len(best)-1), "it has 439 bytes, not 438"},
		{"garbage", append(bytes.Clone(best), "garbage"...), `member 2, at byte 439: it starts with "garb", not with "LZIP"`},
		{"little garbage", append(bytes.Clone(best), 0), "member 2, at byte 439: unexpected EOF"},
		{"corrupt second member", append(bytes.Clone(best), with(-20, best[len(best)-20]^1)...), "member 2, at byte 439: its data has CRC "},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := NewReader(bytes.NewReader(test.data), anySize)
			_, err := io.ReadAll(r)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "lzip: member ") {
				t.Errorf("got %v, want it to have %q", err, test.want)
			}
			if n, again := r.Read(make([]byte, 1)); n != 0 || !errors.Is(again, err) {
				t.Errorf("then got %d, %v", n, again)
			}
		})
	}
}

func TestTruncated(t *testing.T) {
	first := len(lines(100))
	data := bytes.Repeat(file(t, "best.lz"), 2)
	for n := range data {
		got, err := unpack(data[:n])
		if err == nil && len(got) == first {
			continue // the first member alone
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes: got %v", n, err)
		}
	}
}

func TestSourceFails(t *testing.T) {
	broken := errors.New("the line is cut")
	data := file(t, "members.lz")
	for _, n := range []int{0, 5, 6, 8, 30, len(data) / 2, len(data) - 3, len(data)} {
		_, err := io.ReadAll(NewReader(io.MultiReader(bytes.NewReader(data[:n]), iotest.ErrReader(broken)), anySize))
		if !errors.Is(err, broken) {
			t.Errorf("after %d bytes: got %v", n, err)
		}
	}
}

// What is wanted alone bounds the dictionary, whatever a header says.
func TestDictionaryIsBounded(t *testing.T) {
	data := bytes.Clone(file(t, "best.lz"))
	data[5] = 26 // 64 MiB
	want := lines(100)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got, err := io.ReadAll(NewReader(bytes.NewReader(data), int64(len(want))))
	runtime.ReadMemStats(&after)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("%d bytes were allocated for %d", n, len(want))
	}
}

func FuzzReader(f *testing.F) {
	for _, name := range []string{"best.lz", "members.lz", "empty.lz"} { // the small ones, for speed
		f.Add(file(f, name))
	}
	const size, most = 1 << 14, 1 << 16
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := io.ReadAll(io.LimitReader(NewReader(bytes.NewReader(data), size), most))
		again, err2 := io.ReadAll(io.LimitReader(NewReader(iotest.HalfReader(bytes.NewReader(data)), size), most))
		if !bytes.Equal(got, again) || fmt.Sprint(err) != fmt.Sprint(err2) {
			t.Errorf("got %d bytes, %v; then %d bytes, %v", len(got), err, len(again), err2)
		}
	})
}
