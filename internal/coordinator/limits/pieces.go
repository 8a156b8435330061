package limits

import "slices"

// MaxPiece is how many builds clients change at once: while that many are changed the loop does
// nothing else, and that many records wait for the ledger.
const MaxPiece = 10_000

// InPieces calls f with at most MaxPiece ids at a time, and returns all that it returns.
func InPieces(ids []string, f func(piece []string) ([]string, error)) ([]string, error) {
	var all []string
	for piece := range slices.Chunk(ids, MaxPiece) {
		changed, err := f(piece)
		if err != nil {
			return nil, err
		}
		all = append(all, changed...)
	}
	return all, nil
}
