// Browsers start no worker from a file: address. There a hidden frame does its work, so that search works in a folder, too.
if (location.protocol === "file:") {
  window.Worker = class {
    constructor(url) {
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      const opened = new Promise(done => this.frame.addEventListener("load", done, {once: true}));
      this.ready = opened.then(() => new Promise((done, failed) => {
        this.frame.contentWindow.postMessage = data => setTimeout(() => this.onmessage?.({data}));
        const script = this.frame.contentDocument.createElement("script");
        script.onload = done;
        script.onerror = failed;
        script.src = new URL(url, location.href).href;
        this.frame.contentDocument.body.append(script);
      }));
      document.documentElement.append(this.frame);
    }

    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.onmessage({data}));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
