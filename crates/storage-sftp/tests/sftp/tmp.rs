use breakwater_storage::{Payload, conformance, places::UseAs};
use breakwater_storage_sftp::{Environment, Patience};
use std::time::Instant;
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measure() {
    let place = crate::place::Place::start().await;
    let root = place.fresh_root();
    let dir = place.sshd.dir();
    std::fs::write(
        dir.join("delay.py"),
        r#"
import asyncio, sys
D=float(sys.argv[3])
async def pump(r,w):
    loop=asyncio.get_running_loop(); q=asyncio.Queue()
    async def out():
        while True:
            t,b=await q.get()
            d=t-loop.time()
            if d>0: await asyncio.sleep(d)
            if not b: w.close(); return
            w.write(b); await w.drain()
    asyncio.create_task(out())
    while True:
        b=await r.read(262144)
        await q.put((loop.time()+D,b))
        if not b: return
async def h(r,w):
    r2,w2=await asyncio.open_connection('127.0.0.1',int(sys.argv[2]))
    await asyncio.gather(pump(r,w2),pump(r2,w))
async def main():
    s=await asyncio.start_server(h,'127.0.0.1',int(sys.argv[1]))
    await s.serve_forever()
asyncio.run(main())
"#,
    )
    .unwrap();
    for delay in ["0.0", "0.05"] {
        let port = breakwater_testkit::port::free_port();
        let mut proxy = std::process::Command::new("python3")
            .arg(dir.join("delay.py"))
            .arg(port.to_string())
            .arg(place.sshd.port().to_string())
            .arg(delay)
            .spawn()
            .unwrap();
        breakwater_testkit::wait::until_true("proxy", std::time::Duration::from_secs(20), async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        let url = place.sshd.url(&root).unwrap().replace(&format!(":{}", place.sshd.port()), &format!(":{port}"));
        let known = std::fs::read_to_string(place.sshd.known_hosts())
            .unwrap()
            .replace(&format!(":{}", place.sshd.port()), &format!(":{port}"));
        let kept = std::fs::read_to_string(place.sshd.known_hosts()).unwrap();
        std::fs::write(place.sshd.known_hosts(), kept + &known).unwrap();
        let s = crate::place::storage(&url, &Environment::default(), UseAs::Fresh, Patience::default());
        let t = Instant::now();
        s.create(&format!("warm{delay}"), Payload::from(vec![1])).await.unwrap();
        println!("{delay} first {:?}", t.elapsed());
        let t = Instant::now();
        s.create(&format!("a/b/small{delay}"), Payload::from(vec![1])).await.unwrap();
        println!("{delay} small new dirs {:?}", t.elapsed());
        let t = Instant::now();
        s.create(&format!("a/b/small2{delay}"), Payload::from(vec![1])).await.unwrap();
        println!("{delay} small {:?}", t.elapsed());
        let c = Payload::from(conformance::pattern(1, 16 << 20));
        let t = Instant::now();
        s.create(&format!("a/b/big{delay}"), c.clone()).await.unwrap();
        println!("{delay} 16 MiB create {:?}", t.elapsed());
        let t = Instant::now();
        assert!(s.get(&format!("a/b/big{delay}")).await.unwrap() == c.to_bytes());
        println!("{delay} 16 MiB get {:?}", t.elapsed());
        proxy.kill().unwrap();
        proxy.wait().unwrap();
    }
}
