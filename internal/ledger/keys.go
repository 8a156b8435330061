package ledger

import (
	"encoding/binary"
	"errors"
	"strings"

	"lighter/internal/api"
	"lighter/scheduler/estimate"
)

// The first byte of a key; see the package comment.
const (
	prefixMeta     = 'm'
	prefixBuild    = 'b'
	prefixID       = 'n'
	prefixTerm     = 'i'
	prefixName     = 'w'
	prefixTimes    = 't'
	prefixSystem   = 'y'
	prefixOldState = 's' // in format 1
	prefixOldTimes = 'd' // of builds, up to format 3
	prefixEvent    = 'e'
	prefixHistory  = 'h'
	prefixSamples  = 'p'
	prefixClass    = 'c'
	prefixMachine  = 'k'
	prefixSetting  = 'o'
	prefixHour     = 'u'
)

// stateCodes are part of the format.
var stateCodes = map[api.State]byte{
	api.Queued:    'q',
	api.Waiting:   'w',
	api.Placed:    'p',
	api.Sending:   's',
	api.Building:  'b',
	api.Fetching:  'f',
	api.Succeeded: 'S',
	api.Failed:    'F',
	api.TimedOut:  'T',
	api.Canceled:  'C',

	api.DependencyFailed: 'D',
}

var codeStates = func() map[byte]api.State {
	states := make(map[byte]api.State)
	for state, code := range stateCodes {
		states[code] = state
	}
	return states
}()

func keyMeta(name string) []byte { return append([]byte{prefixMeta}, name...) }

func keyBuild(number uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{prefixBuild}, number)
}

func keyID(id string) []byte { return append([]byte{prefixID}, id...) }

func keyTerm(t term, chunk int64) []byte { return appendChunk(termPrefix(t), chunk) }

func termPrefix(t term) []byte {
	return binary.BigEndian.AppendUint64([]byte{prefixTerm}, uint64(t))
}

func keyName(name string, chunk int64) []byte { return appendChunk(namePrefix(name), chunk) }

func namePrefix(name string) []byte {
	return append(append([]byte{prefixName}, name...), 0)
}

func keyTimes(chunk int64) []byte { return appendChunk([]byte{prefixTimes}, chunk) }

func keySystem(name string) []byte { return append([]byte{prefixSystem}, name...) }

func appendChunk(prefix []byte, chunk int64) []byte {
	return binary.BigEndian.AppendUint64(prefix, uint64(chunk)) // #nosec G115 -- read back by the same conversion
}

// keyChunk returns the chunk at the end of a key, after a part of the given length.
func keyChunk(key []byte, length int) (int64, error) {
	if len(key) != length+8 {
		return 0, corrupt(key)
	}
	return int64(binary.BigEndian.Uint64(key[length:])), nil // #nosec G115 -- written by the same conversion
}

func keyEvent(seq uint64) []byte { return binary.BigEndian.AppendUint64([]byte{prefixEvent}, seq) }

func keyHistory(number, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(historyPrefix(number), seq)
}

func historyPrefix(number uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{prefixHistory}, number)
}

func keySamples(k *estimate.Key) []byte {
	key := make([]byte, 0, 3+len(k.System)+len(k.Kind)+len(k.Name))
	key = append(append(key, prefixSamples), k.System...)
	key = append(append(key, 0), k.Kind...)
	return append(append(key, 0), k.Name...)
}

func decodeSamplesKey(key []byte) (estimate.Key, error) {
	parts := strings.Split(string(key[1:]), "\x00")
	if len(parts) != 3 {
		return estimate.Key{}, corrupt(key)
	}
	k := estimate.Key{System: parts[0], Kind: estimate.Kind(parts[1]), Name: parts[2]}
	return k, validKey(&k)
}

func keyClass(k estimate.Kind, buildSystem string) []byte {
	return append(append(append([]byte{prefixClass}, k...), 0), buildSystem...)
}

func keyHour(number int64) []byte { return appendChunk([]byte{prefixHour}, number) }

func keySetting(name string) []byte { return append([]byte{prefixSetting}, name...) }

func keyMachine(name string) []byte { return append([]byte{prefixMachine}, name...) }

// after returns the first key after all keys with a prefix.
func after(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil // no key comes after 0xff…
}

// head is the value of an 'n' key: what must be known of a build to change its record and
// the indexes.
type head struct {
	number  uint64
	state   byte
	attempt uint32
	machine term   // 0 if it has none
	fixed   uint64 // of its terms and the time of its submission; see sumTerms
	outputs uint64 // 0 if none is known
}

const headSize = 8 + 1 + 4 + 3*8

func (h head) encode() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, headSize), h.number)
	b = binary.BigEndian.AppendUint32(append(b, h.state), h.attempt)
	for _, n := range []uint64{uint64(h.machine), h.fixed, h.outputs} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

func decodeHead(id string, value []byte) (head, error) {
	if len(value) != headSize || codeStates[value[8]] == "" {
		return head{}, unusable(errors.New("corrupt entry"), "build %s", id)
	}
	number := binary.BigEndian.Uint64
	return head{
		number: number(value), state: value[8], attempt: binary.BigEndian.Uint32(value[9:]),
		machine: term(number(value[13:])), fixed: number(value[21:]), outputs: number(value[29:]),
	}, nil
}
