package plugins
import ("testing";"time";"os";"log/slog")
func TestZZ(t *testing.T){
 dir,err:=Find("../../../plugins.d"); if err!=nil{t.Fatal(err)}
 for _,f:=range Verify(dir){t.Logf("%+v",f)}
 all,err:=Read(dir); t.Log(len(all),err)
 for _,m:=range all{ s:=time.Now(); c,_,err:=dir.Load(t.Context(),m.Name,m.Kind,slog.New(slog.NewTextHandler(os.Stderr,nil))); if err!=nil{t.Log(err);continue}; l:=time.Since(s); s=time.Now(); c.Close(); t.Log(m.Name,c.Description().Version,l,time.Since(s))}
}
