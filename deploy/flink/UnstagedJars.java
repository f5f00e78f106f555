import java.io.File;
import java.io.IOException;
import java.net.URISyntaxException;
import java.net.URL;
import java.net.URLClassLoader;
import java.util.Arrays;

/**
 * The class loader of a job server whose Flink cluster has Beam's jars already. It loads those of the folder {@code libs}
 * beside its own jar, and names none of them to Beam, which asks a class loader what to send to Flink with each job.
 *
 * <p>It must be the JVM's system class loader, by {@code -Djava.system.class.loader=UnstagedJars}: Flink asks that one when it
 * decodes what a failed job says. The library starts it so.
 */
public final class UnstagedJars extends URLClassLoader {
  static {
    registerAsParallelCapable();
  }

  public UnstagedJars(ClassLoader parent) throws IOException, URISyntaxException {
    super(jars(), parent);
  }

  private static URL[] jars() throws IOException, URISyntaxException {
    File own = new File(UnstagedJars.class.getProtectionDomain().getCodeSource().getLocation().toURI());
    File folder = new File(own.getParentFile(), "libs");
    File[] files = folder.listFiles((within, name) -> name.endsWith(".jar"));
    if (files == null || files.length == 0) {
      throw new IOException("there are no jars in " + folder);
    }
    Arrays.sort(files);
    URL[] urls = new URL[files.length];
    for (int i = 0; i < files.length; i++) {
      urls[i] = files[i].toURI().toURL();
    }
    return urls;
  }

  @Override
  public URL[] getURLs() {
    return new URL[0];
  }
}
