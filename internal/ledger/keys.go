package ledger

import (
	"encoding/binary"
	"fmt"

	"lighter/internal/api"
)

// The first byte of a key; see the package comment.
const (
	prefixMeta     = 'm'
	prefixBuild    = 'b'
	prefixID       = 'n'
	prefixState    = 's'
	prefixEvent    = 'e'
	prefixHistory  = 'h'
	prefixDuration = 'd'
	prefixMachine  = 'k'
	prefixSetting  = 'o'
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

func keyState(code byte, number uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{prefixState, code}, number)
}

func parseStateKey(key []byte) (api.State, uint64, error) {
	if len(key) != 10 {
		return "", 0, corrupt(key)
	}
	state, ok := codeStates[key[1]]
	if !ok {
		return "", 0, corrupt(key)
	}
	return state, binary.BigEndian.Uint64(key[2:]), nil
}

func keyEvent(seq uint64) []byte { return binary.BigEndian.AppendUint64([]byte{prefixEvent}, seq) }

func keyHistory(number, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(historyPrefix(number), seq)
}

func historyPrefix(number uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{prefixHistory}, number)
}

func keyDuration(name, system string) []byte {
	return append(append([]byte{prefixDuration}, system...), "\x00"+name...)
}

func keySetting(name string) []byte { return append([]byte{prefixSetting}, name...) }

func keyMachine(name string) []byte { return append([]byte{prefixMachine}, name...) }

// after returns the first key that is behind all keys with a prefix.
func after(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil // no key is behind 0xff…
}

// head is the value of an 'n' key: what must be known of a build to change it.
type head struct {
	number  uint64
	state   byte
	attempt uint32
}

const headSize = 8 + 1 + 4

func (h head) encode() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, headSize), h.number)
	return binary.BigEndian.AppendUint32(append(b, h.state), h.attempt)
}

func decodeHead(id string, value []byte) (head, error) {
	if len(value) != headSize {
		return head{}, corrupt(keyID(id))
	}
	return head{binary.BigEndian.Uint64(value), value[8], binary.BigEndian.Uint32(value[9:])}, nil
}

func corrupt(key []byte) error { return fmt.Errorf("corrupt entry %q", key) }
