package plugin

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/plugin/pluginpb"
)

// fill sets every field of v to something that is not its zero value, and no two alike.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Unix(int64(1_700_000_000+*n), 123456789).UTC()))
		return
	case json.RawMessage:
		v.Set(reflect.ValueOf(json.RawMessage(fmt.Sprintf(`{"n":%d}`, *n))))
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString(fmt.Sprintf("s%d", *n))
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint64:
		v.SetUint(uint64(*n))
	case reflect.Uint8:
		v.SetUint(uint64(*n % 251))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range 2 {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(key, n)
			fill(value, n)
			v.SetMapIndex(key, value)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	default:
		panic("fill does not know " + v.Type().String())
	}
}

// roundTrip sends a filled T through its message and the wire's bytes, and one of each
// field alone, so that a field can't hide behind another.
func roundTrip[T any, M proto.Message](to func(T) M, from func(M) T) func(*testing.T) {
	through := func(t *testing.T, in T) T {
		t.Helper()
		raw, err := proto.Marshal(to(in))
		if err != nil {
			t.Fatal(err)
		}
		var m M
		m = reflect.New(reflect.TypeOf(m).Elem()).Interface().(M)
		if err := proto.Unmarshal(raw, m); err != nil {
			t.Fatal(err)
		}
		return from(m)
	}
	return func(t *testing.T) {
		var full T
		n := 0
		fill(reflect.ValueOf(&full).Elem(), &n)
		if diff := cmp.Diff(full, through(t, full)); diff != "" {
			t.Errorf("filled (-sent +got):\n%s", diff)
		}
		for i := range reflect.TypeOf(full).NumField() {
			var one T
			reflect.ValueOf(&one).Elem().Field(i).Set(reflect.ValueOf(full).Field(i))
			if diff := cmp.Diff(one, through(t, one)); diff != "" {
				t.Errorf("only %s (-sent +got):\n%s", reflect.TypeOf(full).Field(i).Name, diff)
			}
		}
		var none T
		if diff := cmp.Diff(none, through(t, none)); diff != "" {
			t.Errorf("zero (-sent +got):\n%s", diff)
		}
		var m M
		if diff := cmp.Diff(none, from(m)); diff != "" {
			t.Errorf("a message that was left out (-want +got):\n%s", diff)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	t.Run("Description", roundTrip(toDescription, fromDescription))
	t.Run("Node", roundTrip(toNode, fromNode))
	t.Run("Status", roundTrip(toStatus, fromStatus))
	t.Run("Intent", roundTrip(toIntent, fromIntent))
	t.Run("Output", roundTrip(toOutput, fromOutput))
	t.Run("Plan", roundTrip(toPlan, fromPlan))
	t.Run("Command", roundTrip(toCommand, fromCommand))
	t.Run("Front", roundTrip(toFront, fromFront))
	t.Run("Entry", roundTrip(
		func(e core.Entry) *pluginpb.Entries { return toEntries([]core.Entry{{Name: "before"}, e}) },
		func(m *pluginpb.Entries) (e core.Entry) {
			if list, err := fromEntries(m); err != nil {
				t.Error(err)
			} else if len(list) == 2 {
				e = list[1]
			}
			return e
		}))
	t.Run("Change", roundTrip(toChange, fromChange))
	t.Run("Verdict", roundTrip(toVerdict, fromVerdict))
	t.Run("Target", roundTrip(toTarget, fromTarget))
	t.Run("UploadRequest", roundTrip(toUpload, fromUpload))
	t.Run("Object", roundTrip(toObject, fromObject))
	t.Run("Condition", roundTrip(toCondition, fromCondition))
	t.Run("Move", roundTrip(toMove, fromMove))
}

// TestColumns: a plugin may send columns that do not fit each other.
func TestColumns(t *testing.T) {
	column := func(values ...string) map[string]*pluginpb.Column {
		return map[string]*pluginpb.Column{"infohash": {Values: values}}
	}
	for name, in := range map[string]*pluginpb.Entries{
		"too few sizes":  {Names: []string{"a", "b"}, Sizes: []int64{1}},
		"too many sizes": {Names: []string{"a"}, Sizes: []int64{1, 2}},
		"no names":       {Sums: column("x"), Sizes: []int64{1}},
		"too few sums":   {Names: []string{"a", "b"}, Sizes: []int64{1, 2}, Sums: column("x")},
		"no sums":        {Names: []string{"a"}, Sizes: []int64{1}, Sums: map[string]*pluginpb.Column{"infohash": nil}},
	} {
		if list, err := fromEntries(in); err == nil {
			t.Errorf("%s: %v", name, list)
		}
	}
}

// What the converted types hold is filled by reflection; this says that no struct of the
// contract's methods is left out above.
func TestRoundTripCoversTheContract(t *testing.T) {
	covered := map[string]bool{}
	for _, v := range []any{core.Description{}, core.Node{}, core.Status{}, core.Intent{}, core.Output{}, core.Plan{}, core.Entry{},
		core.Change{}, core.Verdict{}, core.Target{}, core.UploadRequest{}, core.Object{}, core.Condition{}, core.Move{}, core.Front{}} {
		cover(reflect.TypeOf(v), covered)
	}
	for _, iface := range []reflect.Type{
		reflect.TypeFor[core.Chain](), reflect.TypeFor[core.Catalog](), reflect.TypeFor[core.Judge](), reflect.TypeFor[core.Importer](),
		reflect.TypeFor[core.Sink](), reflect.TypeFor[core.Copier](), reflect.TypeFor[core.Purger](), reflect.TypeFor[core.Fronted](), reflect.TypeFor[core.Host](),
	} {
		used := map[string]bool{}
		for i := range iface.NumMethod() {
			cover(iface.Method(i).Type, used)
		}
		for name := range used {
			if !covered[name] {
				t.Errorf("%s uses %s, and no round trip covers it", iface, name)
			}
		}
	}
}

// cover adds the names of package core's structs that a type holds.
func cover(typ reflect.Type, names map[string]bool) {
	switch typ.Kind() {
	case reflect.Func:
		for i := range typ.NumIn() {
			cover(typ.In(i), names)
		}
		for i := range typ.NumOut() {
			cover(typ.Out(i), names)
		}
	case reflect.Slice, reflect.Pointer, reflect.Map:
		cover(typ.Elem(), names)
	case reflect.Struct:
		if typ.PkgPath() != reflect.TypeFor[core.Node]().PkgPath() {
			return
		}
		names[typ.Name()] = true
		for i := range typ.NumField() {
			cover(typ.Field(i).Type, names)
		}
	}
}
