package bench
import ("testing";"context";"os";"fmt";"strings";"encoding/json";"net/http";"net";"io";"signalbox";"signalbox/internal/sim")
func TestZZ(t *testing.T){
 exe:=os.Getenv("ZZEXE"); if exe==""{return}
 ctx:=context.Background()
 m:=Modes()[0]
 b,err:=newBencher(m,Options{Executable:exe}); if err!=nil{t.Fatal(err)}
 h,err:=b.startHub(ctx); if err!=nil{t.Fatal(err)}
 defer h.stop()
 pr:=func(s string){
  for i:=0;i<2;i++{ h.collect(ctx)}
  d,_:=os.ReadFile(fmt.Sprintf("/proc/%d/status",h.process()))
  out:=""
  for _,l:=range strings.Split(string(d),"\n"){ if strings.HasPrefix(l,"Rss")||strings.HasPrefix(l,"VmRSS"){out+=strings.Join(strings.Fields(l)," ")+"; "}}
  c:=&http.Client{Transport:&http.Transport{DialContext:func(ctx context.Context,_,_ string)(net.Conn,error){ return net.Dial("unix",os.Getenv("ZZSOCK"))}}}
  _=c;_=io.EOF;_=json.Valid
  t.Log(s,out)
  if os.Getenv("ZZWAIT")!=""{ sock,_:=os.ReadDir("/proc"); _=sock }
 }
 if err:=b.warm(ctx,h);err!=nil{t.Fatal(err)}
 pr("warm")
 cr,err:=h.addDevices(ctx,18000); if err!=nil{t.Fatal(err)}
 pr("imported")
 s,err:=sim.NewSwarm(sim.SwarmConfig{Addr:h.address(),Credentials:cr,Protocol:signalbox.ProtocolV2,Workers:2}); if err!=nil{t.Fatal(err)}
 defer s.Close()
 if _,err:=s.Connect(ctx);err!=nil{t.Fatal(err)}
 pr("connected")
 if _,err:=b.storedLoad(ctx,h,s,sim.Load{Messages:1});err!=nil{t.Fatal(err)}
 pr("messages")
 var ms map[string]any
 _ = ms
 os.WriteFile("/tmp/sbx/zz.pid",[]byte(fmt.Sprint(h.process())),0o644)
 d,_:=os.ReadFile(fmt.Sprintf("/proc/%d/cmdline",h.process()))
 fmt.Println(strings.ReplaceAll(string(d),"\x00"," "))
 args:=strings.Split(string(d),"\x00"); dir:=""
 for i,a:=range args{ if a=="--data"{dir=args[i+1]}}
 c:=&http.Client{Transport:&http.Transport{DialContext:func(ctx context.Context,_,_ string)(net.Conn,error){ return net.Dial("unix",dir+"/signalbox.sock")}}}
 for _,u:=range []string{"/debug/pprof/heap?gc=1"}{ r,_:=c.Get("http://x"+u); f,_:=os.Create("/tmp/sbx/zzheap.prof"); io.Copy(f,r.Body); f.Close()}
 r,_:=c.Post("http://x/debug/gc","",nil); var mm struct{HeapAlloc,HeapInuse,HeapIdle,HeapReleased,StackInuse,Sys,OtherSys,GCSys,MSpanInuse,BuckHashSys uint64}; json.NewDecoder(r.Body).Decode(&mm); t.Logf("%+v",mm)
 sm,_:=os.ReadFile(fmt.Sprintf("/proc/%d/smaps",h.process())); os.WriteFile("/tmp/sbx/zz.smaps",sm,0o644)
}
