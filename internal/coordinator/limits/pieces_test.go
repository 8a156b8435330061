package limits

import (
	"errors"
	"slices"
	"strconv"
	"testing"
)

func TestInPieces(t *testing.T) {
	ids := make([]string, 2*MaxPiece+1)
	for i := range ids {
		ids[i] = strconv.Itoa(i)
	}
	calls := 0
	all, err := InPieces(ids, func(piece []string) ([]string, error) {
		calls++
		return piece, nil
	})
	if err != nil || calls != 3 || !slices.Equal(all, ids) {
		t.Errorf("%d of %d in %d calls, %v", len(all), len(ids), calls, err)
	}
	bad := errors.New("bad")
	if all, err := InPieces(ids, func([]string) ([]string, error) { return nil, bad }); all != nil || !errors.Is(err, bad) {
		t.Errorf("got %d, %v", len(all), err)
	}
}
