package headstore

import (
	"context"
	"maps"
	"slices"

	"lighter/internal/api"
	"lighter/store"
)

// Outputs says of each output of a build that succeeded, sorted by name, what the store has of it. An error of the
// store is as if it had nothing: a build is told of all the same.
func (h *Store) Outputs(ctx context.Context, b *api.Build) []api.Output {
	if b.State != api.Succeeded {
		return nil
	}
	list := make([]api.Output, 0, len(b.OutputPaths))
	paths := make([]store.Path, 0, len(b.OutputPaths))
	for _, name := range slices.Sorted(maps.Keys(b.OutputPaths)) {
		paths = append(paths, b.OutputPaths[name])
		list = append(list, api.Output{Name: name, Path: b.OutputPaths[name], On: b.OutputsOn})
	}
	infos, err := store.Infos(ctx, h.Backend, paths)
	for i := range list {
		if err != nil || infos[i] == nil {
			continue
		}
		o := &list[i]
		o.Home, o.Size, o.Hash, o.On = true, infos[i].NARSize, store.EncodeBase32(infos[i].NARHash[:]), ""
	}
	return list
}
